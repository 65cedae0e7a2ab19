/* What the probes share: maps, tags, the record header, loss counters, the wake-up.
 *
 * Compiled by bcc as part of one translation unit. Kernel structures are read at offsets that the loader
 * takes from the running kernel's BTF (-DOFF_...), never through header definitions.
 * Tunables, all from the loader: RING_PAGES, TAGS_MAX, EPISODES_MAX, CPUS_MAX, NODES_MAX,
 * TRACE_UNTAGGED (0 or 1), SIGNAL_FROM_CGROUP_HOOKS (0 or 1).
 */
#include "events.h"

#define READ(destination, base, offset) \
	bpf_probe_read_kernel(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))
/* Hides a value's origin from the compiler, so that the bound checked next is not optimised away. */
#define OPAQUE(value) asm volatile("" : "+r"(value))

BPF_RINGBUF_OUTPUT(events, RING_PAGES);

/* Word 0 is 1 while the reader sleeps: whoever writes a record then wakes it. Word 1 is the reader's process.
 * Word 2 is 1 while the ring buffer is three quarters full. Mapped by the reader. */
BPF_F_TABLE("array", u32, u64, reader, 512, BPF_F_MMAPABLE);

struct tag {
	u32 episode;
	u32 flags;
	u64 start_ns; /* of the process; 0 if it was tagged from outside and has not been looked up yet */
};
BPF_HASH(tags, u32, struct tag, TAGS_MAX);     /* thread group -> tag; never evicts */
BPF_HASH(cgroup_tags, u64, u32, EPISODES_MAX); /* cgroup id -> episode; its sub-cgroups belong to it too */

struct episode_config {
	u8 enforce;      /* decisions stricter than allow are carried out, not merely reported */
	u8 network;      /* a [network] section is in force */
	u8 unix_default; /* enum action */
	u8 gpu;          /* a [gpu] section is in force */
	u8 doomed;       /* the whole episode is being killed: nothing of it may fork, exec or connect */
	u8 exec;         /* an [exec] section is in force */
	u8 closed;       /* [network] refuses by default */
	u8 unix_kill;    /* [network] has an entry that kills for a Unix socket */
};
BPF_ARRAY(episodes, struct episode_config, EPISODES_MAX);

struct episode_counters {
	u64 emitted;           /* records that a probe wanted to hand over */
	u64 lost;              /* those for which the ring buffer had no room */
	u64 untagged_children; /* forks that could not be tagged: the tag map was full */
};
BPF_PERCPU_ARRAY(counters, struct episode_counters, EPISODES_MAX);

enum action { ACTION_ALLOW, ACTION_LOG, ACTION_ALERT, ACTION_DENY, ACTION_FREEZE, ACTION_KILL };

static __always_inline u32 current_tgid(void)
{
	return bpf_get_current_pid_tgid() >> 32;
}

static __always_inline int crowded(void)
{
	u32 two = 2;
	u64 *full = reader.lookup(&two);
	return full && *full;
}

static __always_inline u32 auditor_pid(void)
{
	u32 one = 1;
	u64 *pid = reader.lookup(&one);
	return pid ? *pid : 0;
}

/* Tells whether a process of this episode (0: none) is to be reported at all. */
static __always_inline int wanted(u32 episode)
{
	return TRACE_UNTAGGED || episode;
}

static __always_inline u32 episode_of(u32 tgid)
{
	struct tag *tag = tags.lookup(&tgid);
	return tag ? tag->episode : 0;
}

static __always_inline struct episode_config *config_of(u32 episode)
{
	return episodes.lookup(&episode);
}

static __always_inline u64 start_of(u64 task)
{
	u64 leader = 0, start_ns = 0;
	READ(leader, task, OFF_task_struct_group_leader);
	READ(start_ns, leader, OFF_task_struct_start_boottime);
	return start_ns;
}

static __always_inline void fill_header(struct record_header *header, u32 kind, u32 episode, u32 tgid, u64 start_ns)
{
	header->kind = kind;
	header->episode = episode;
	/* Whole microseconds: three digits of noise on every line would be a byte of the trail. */
	header->ts_ns = bpf_ktime_get_ns() / 1000 * 1000;
	header->start_ns = start_ns;
	header->pid = tgid;
	header->uid = bpf_get_current_uid_gid();
	bpf_get_current_comm(header->comm, sizeof(header->comm));
}

/* The same for the current process, of which `tag` may be NULL. */
static __always_inline void fill_header_current(struct record_header *header, u32 kind, u32 tgid, struct tag *tag)
{
	u64 start_ns = tag ? tag->start_ns : 0;
	if (!start_ns) {
		start_ns = start_of(bpf_get_current_task());
		if (tag)
			tag->start_ns = start_ns;
	}
	fill_header(header, kind, tag ? tag->episode : 0, tgid, start_ns);
}

/* Atomic although there is a counter for each CPU: cgroup hooks can be preempted between load and store. */
static __always_inline void count_emitted(u32 episode)
{
	struct episode_counters *counter = counters.lookup(&episode);
	if (counter)
		__sync_fetch_and_add(&counter->emitted, 1);
}

static __always_inline void count_lost(u32 episode)
{
	struct episode_counters *counter = counters.lookup(&episode);
	if (counter)
		__sync_fetch_and_add(&counter->lost, 1);
}

/* A wake-up costs the audited process about 20 us, so it is paid only when the reader says that it sleeps. */
static __always_inline u64 wake_flags(void)
{
	u32 zero = 0;
	u64 *asleep = reader.lookup(&zero);
	if (asleep && *asleep) {
		*asleep = 0;
		return BPF_RB_FORCE_WAKEUP;
	}
	return BPF_RB_NO_WAKEUP;
}

/* Kills the current process if its whole episode is being killed. */
static __always_inline int die_if_doomed(u32 episode)
{
	struct episode_config *config = config_of(episode);
	if (episode && config && config->doomed) {
		bpf_send_signal(9);
		return 1;
	}
	return 0;
}

static __always_inline u64 cgroup_id_of(u64 cgroup)
{
	u64 node = 0, id = 0;
	READ(node, cgroup, OFF_cgroup_kn);
	READ(id, node, OFF_kernfs_node_id);
	return id;
}

/* Episode of a cgroup or of the nearest of eight ancestors; 0 if none. */
static __always_inline u32 episode_of_cgroup(u64 cgroup)
{
	for (int level = 0; level < 8; level++) {
		u64 id = cgroup_id_of(cgroup), parent = 0;
		u32 *episode = cgroup_tags.lookup(&id);
		if (episode)
			return *episode;
		READ(parent, cgroup, OFF_cgroup_self_parent);
		if (!parent)
			break;
		cgroup = parent; /* css is the first member of struct cgroup */
	}
	return 0;
}

static __always_inline u64 cgroup_of(u64 task)
{
	u64 set = 0, cgroup = 0;
	READ(set, task, OFF_task_struct_cgroups);
	READ(cgroup, set, OFF_css_set_dfl_cgrp);
	return cgroup;
}

/* Enters the tag of a process. The map never evicts: when it is full, the failure is counted. */
static __always_inline void set_tag(u32 tgid, u32 episode, u64 start_ns)
{
	struct tag tag = {.episode = episode, .start_ns = start_ns};
	if (tags.update(&tgid, &tag)) {
		struct episode_counters *counter = counters.lookup(&episode);
		if (counter)
			counter->untagged_children += 1;
	}
}
