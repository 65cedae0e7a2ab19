/* Which GPUs a process opens, and what it asks of their drivers; and no context on a device it may not use.
 *
 * Hooks: tracepoint syscalls:sys_exit_ioctl (at exit the drivers have copied their argument back, so what is read
 * is what they used, with their answer; registers by bpf_task_pt_regs: since 5.15), and a cgroup device program at
 * the cgroup2 ROOT (links: 5.7), which refuses an open before there is a descriptor.
 * Devices are known by number, never by path. Every call is counted exactly; the first of each (process, device,
 * kind), every context and every refused open is a record. See GPU.md.
 * Cannot see: ioctls of 32-bit callers (int 0x80; their opens are seen); a call whose descriptor another thread
 * closed or replaced while it ran; anything after start-up on drivers that submit through mapped memory (NVIDIA).
 */

#ifndef GPU_MINORS_MAX
#define GPU_MINORS_MAX 16384
#endif
#ifndef GPU_UUIDS_MAX
#define GPU_UUIDS_MAX 4096
#endif
#ifndef GPU_COMMANDS_MAX
#define GPU_COMMANDS_MAX 4096
#endif
#ifndef GPU_POLICY_MAX
#define GPU_POLICY_MAX 16384
#endif
#ifndef GPU_COUNTS_MAX
#define GPU_COUNTS_MAX 16384
#endif

#define MAJORS 4096
#define MINOR_BITS 20
#define ANY_DEVICE 0xffff
#define UNKNOWN_GPU 0 /* index for a UUID that is not in gpu_uuids */

/* Devices, by two array look-ups: they cost a fifth of a hash map's, and most ioctls are not a GPU's. Minor m of a
 * major is entry first + m of gpu_minors, those from `count` on are entry first + count. */
struct gpu_major {
	u16 first;
	u16 count;
};
BPF_ARRAY(gpu_majors, struct gpu_major, MAJORS);

struct gpu_device {
	u16 index;
	u8 driver; /* 0: not a GPU */
	u8 match;  /* how this driver tells its ioctls apart */
};
BPF_ARRAY(gpu_minors, struct gpu_device, GPU_MINORS_MAX);

struct gpu_uuid {
	u64 words[2];
};
BPF_HASH(gpu_uuids, struct gpu_uuid, u32, GPU_UUIDS_MAX);

#define NOWHERE 0xffff
#define GPU_ENVELOPE 1 /* the argument holds {u32 number, u32 size, u64 pointer} of the real one */
#define GPU_INNER 2    /* the u32 at inner_at, looked up as inner_match, says more */
#define GPU_LIMIT 4    /* at bytes_at is the last byte's number, one less than the length */
#define GPU_LISTED 8   /* always set: an entry without flags was never filled */

/* What a command is, and where its argument tells more. Offsets are bytes; NOWHERE if it does not. */
struct gpu_command {
	u8 kind;
	u8 flags;
	u8 inner_match;
	u8 inner_at;
	u32 when_value; /* of another kind (GPU_OTHER) unless the u32 at when_at is this */
	u16 when_at;
	u16 bytes_at;
	u16 pointer_at; /* bytes_at counts from where this pointer points */
	u16 uuid_at;
	u16 status_at;
	u16 status_at_long; /* of arguments of 48 bytes and more */
};

struct gpu_command_key {
	u8 driver;
	u8 match;
	u16 reserved;
	u32 number;
};
BPF_HASH(gpu_commands, struct gpu_command_key, struct gpu_command, GPU_COMMANDS_MAX);

/* The same for a driver's own numbers below 256, which are nearly all: entry driver * 256 + number. */
#define DRIVERS_MAX 32
BPF_ARRAY(gpu_short_commands, struct gpu_command, DRIVERS_MAX * 256);

struct gpu_policy_key {
	u32 episode;
	u32 device; /* index, or ANY_DEVICE for all that have no entry of their own */
};
BPF_HASH(gpu_policy, struct gpu_policy_key, u32, GPU_POLICY_MAX);

struct gpu_count_key {
	u32 tgid;
	u32 start_ms; /* start_ns >> 20: a pid may be used again before its counts were read */
	u16 device;
	u16 kind;
};
struct gpu_count {
	u64 calls;
	u64 bytes;
	u64 start_ns; /* this and the episode are 0 on all CPUs but that of the first call */
	u32 episode;
	u32 reserved;
};
/* Only ever grows while the process lives; user space deletes what is of a process that has ended. */
BPF_PERCPU_HASH(gpu_counts, struct gpu_count_key, struct gpu_count, GPU_COUNTS_MAX);

/* What one call turned out to be. */
struct gpu_call {
	struct gpu_uuid uuid;
	u64 bytes;
	u32 number;
	u32 status;
	u16 device;
	u8 kind;
	u8 match;
	u8 has_uuid;
	u8 driver;
};

#define READ_USER(destination, base, offset) \
	bpf_probe_read_user(&(destination), sizeof(destination), (void *)((u64)(base) + (offset)))

static __always_inline struct gpu_device *gpu_device_of(u32 number)
{
	u32 major = number >> MINOR_BITS, minor = number & ((1 << MINOR_BITS) - 1);
	struct gpu_major *block = gpu_majors.lookup(&major);
	if (!block || !block->first)
		return NULL;
	u32 entry = block->first + (minor < block->count ? minor : block->count);
	struct gpu_device *device = gpu_minors.lookup(&entry);
	return device && device->driver ? device : NULL;
}

static __always_inline u32 gpu_action(u32 episode, u32 device)
{
	struct gpu_policy_key key = {.episode = episode, .device = device};
	u32 *action = gpu_policy.lookup(&key);
	if (!action) {
		key.device = ANY_DEVICE;
		action = gpu_policy.lookup(&key);
	}
	return action ? *action : ACTION_ALLOW;
}

/* Counts a call. Returns 1 if it is the first of its kind by this process on this device.
 * Cgroup programs can be preempted by another thread of the process on the same CPU: they say `preemptible`. */
static __always_inline int count_call(u32 tgid, u64 start_ns, u32 episode, struct gpu_call *call, int preemptible)
{
	struct gpu_count_key key = {
		.tgid = tgid, .start_ms = start_ns >> 20, .device = call->device, .kind = call->kind};
	struct gpu_count *count = gpu_counts.lookup(&key);
	if (!count) {
		struct gpu_count one = {.calls = 1, .bytes = call->bytes, .start_ns = start_ns, .episode = episode};
		if (!gpu_counts.insert(&key, &one))
			return 1;
		count = gpu_counts.lookup(&key); /* another thread was quicker */
		if (!count) {
			count_emitted(episode); /* the map is full: a call that nobody will hear of */
			count_lost(episode);
			return 0;
		}
	}
	if (preemptible) {
		__sync_fetch_and_add(&count->calls, 1);
	} else {
		count->calls += 1;
		count->bytes += call->bytes;
	}
	return 0;
}

static __always_inline void report_call(u32 tgid, struct tag *tag, struct gpu_call *call, s32 error, u32 decision)
{
	u32 episode = tag ? tag->episode : 0;
	count_emitted(episode);
	struct gpu_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return;
	}
	fill_header_current(&record->header, RECORD_GPU, tgid, tag);
	record->bytes = call->bytes;
	record->command = call->number;
	record->status = call->status;
	record->error = error;
	record->device = call->device;
	record->kind = call->kind;
	record->match = call->match;
	__builtin_memcpy(record->uuid, &call->uuid, sizeof(record->uuid));
	record->has_uuid = call->has_uuid;
	record->driver = call->driver;
	record->decision = decision;
	__builtin_memset(record->reserved, 0, sizeof(record->reserved));
	events.ringbuf_submit(record, wake_flags());
}

static __always_inline u64 start_of_current(struct tag *tag)
{
	if (tag && tag->start_ns)
		return tag->start_ns;
	u64 start_ns = start_of(bpf_get_current_task());
	if (tag)
		tag->start_ns = start_ns;
	return start_ns;
}

/* ---- what a call is */

static __always_inline struct gpu_command *gpu_command_of(u8 driver, u8 match, u32 number)
{
	if (number < 256 && match < GPU_MATCH_CLASS) {
		u32 entry = driver << 8 | number;
		struct gpu_command *command = gpu_short_commands.lookup(&entry);
		return command && command->flags ? command : NULL;
	}
	struct gpu_command_key key = {.driver = driver, .match = match, .number = number};
	return gpu_commands.lookup(&key);
}

/* NVIDIA's compute classes end in c0 and its channels in 6f, those to come presumably too. */
static __always_inline u8 kind_of_unlisted_class(u32 class)
{
	if (class >= 0x9000 && class <= 0xffff && (class & 0xff) == 0xc0)
		return GPU_CONTEXT;
	if (class >= 0x9000 && class <= 0xffff && (class & 0xff) == 0x6f)
		return GPU_CHANNEL;
	return GPU_UNKNOWN;
}

static __always_inline void read_bytes(struct gpu_call *call, struct gpu_command *command, u64 argument)
{
	if (command->when_at != NOWHERE) {
		u32 value = 0;
		READ_USER(value, argument, command->when_at);
		if (value != command->when_value) {
			call->kind = GPU_OTHER;
			return;
		}
	}
	if (command->bytes_at == NOWHERE)
		return;
	if (command->pointer_at != NOWHERE) {
		u64 pointer = 0;
		READ_USER(pointer, argument, command->pointer_at);
		argument = pointer;
	}
	if (!READ_USER(call->bytes, argument, command->bytes_at) && (command->flags & GPU_LIMIT))
		call->bytes += 1;
}

static __always_inline void read_uuid(struct gpu_call *call, struct gpu_command *command, u64 argument)
{
	if (command->uuid_at == NOWHERE || READ_USER(call->uuid, argument, command->uuid_at))
		return;
	u32 *device = gpu_uuids.lookup(&call->uuid);
	call->device = device ? *device : UNKNOWN_GPU;
	call->has_uuid = 1;
}

static __always_inline void decode_call(struct gpu_call *call, struct gpu_device *device, u32 command, u64 argument)
{
	struct envelope {
		u32 number, size;
		u64 argument;
	} envelope = {};
	u32 size = (command >> 16) & 0x3fff;

	call->driver = device->driver;
	call->device = device->index;
	call->match = device->match;
	call->number = device->match == GPU_MATCH_NR        ? command & 0xff
		       : device->match == GPU_MATCH_TYPE_NR ? command & 0xffff
							    : command;
	struct gpu_command *found = gpu_command_of(call->driver, call->match, call->number);
	if (found && found->flags & GPU_ENVELOPE && !READ_USER(envelope, argument, 0)) {
		command = envelope.number;
		size = envelope.size;
		argument = envelope.argument;
		call->number = command & 0xff;
		found = gpu_command_of(call->driver, call->match, call->number);
	}
	if (!found) {
		call->match = GPU_MATCH_COMMAND;
		call->number = command;
		return;
	}
	call->kind = found->kind;
	u32 status_at = size >= 48 ? found->status_at_long : found->status_at;
	if (status_at != NOWHERE)
		READ_USER(call->status, argument, status_at);
	if (found->flags & GPU_INNER) {
		u32 inner = 0;
		if (READ_USER(inner, argument, found->inner_at))
			return;
		call->match = found->inner_match;
		call->number = inner;
		found = gpu_command_of(call->driver, call->match, inner);
		if (!found) {
			if (call->match == GPU_MATCH_CLASS)
				call->kind = kind_of_unlisted_class(inner);
			return;
		}
		call->kind = found->kind;
	}
	read_bytes(call, found, argument);
	read_uuid(call, found, argument);
}

/* ---- the hooks */

/* Loads that the verifier checks against the kernel's own types: a tenth of the price of a helper call. */
#define LOAD(width, destination, base, offset) \
	asm volatile("%0 = *(" #width " *)(%1 + %2)" : "=r"(destination) : "r"(base), "i"(offset))

#if defined(__TARGET_ARCH_arm64) /* x0 is the result by now; struct pt_regs keeps it in orig_x0 */
#define ARGUMENT_0 272
#define ARGUMENT_1 8
#define ARGUMENT_2 16
#else /* di, si, dx: arch/x86/include/asm/ptrace.h */
#define ARGUMENT_0 112
#define ARGUMENT_1 104
#define ARGUMENT_2 96
#endif

#define FILE_TYPE 0170000
#define CHARACTER_DEVICE 0020000

#define ENTRY(n) \
	case n: \
		LOAD(u64, file, files, OFF_files_struct_fd_array + 8 * (n)); \
		break;
#define ENTRIES(n) ENTRY(n) ENTRY(n + 1) ENTRY(n + 2) ENTRY(n + 3) ENTRY(n + 4) ENTRY(n + 5) ENTRY(n + 6) ENTRY(n + 7)

/* Device number behind descriptor `fd` of the current task if it is a character device, else 0. */
static __always_inline u32 character_device_behind(struct task_struct *task, u32 fd)
{
	u64 files, table, limit, file = 0, inode = 0, mode, number;

	LOAD(u64, files, task, OFF_task_struct_files);
	if (!files)
		return 0;
	LOAD(u64, table, files, OFF_files_struct_fdt);
	if (!table)
		return 0;
	if (table == files + OFF_files_struct_fdtab) {
		/* Never more than 64 descriptors: they are in the structure itself, and by constant offsets the
		 * verifier knows what they are. Saves three helper calls, 40 of 125 ns. */
		switch (fd) {
			ENTRIES(0)
			ENTRIES(8)
			ENTRIES(16) ENTRIES(24) ENTRIES(32) ENTRIES(40) ENTRIES(48) ENTRIES(56) default : return 0;
		}
		if (!file)
			return 0;
		LOAD(u64, inode, file, OFF_file_f_inode);
		if (!inode)
			return 0;
		LOAD(u16, mode, inode, OFF_inode_i_mode);
		LOAD(u32, number, inode, OFF_inode_i_rdev);
	} else {
		u64 descriptors;
		u32 words[(OFF_inode_i_rdev - OFF_inode_i_mode) / 4 + 1]; /* from i_mode to i_rdev */
		LOAD(u32, limit, table, OFF_fdtable_max_fds);
		if (fd >= limit)
			return 0;
		LOAD(u64, descriptors, table, OFF_fdtable_fd);
		READ(file, descriptors, (u64)fd * 8);
		READ(inode, file, OFF_file_f_inode);
		if (READ(words, inode, OFF_inode_i_mode))
			return 0;
		mode = words[0];
		number = words[sizeof(words) / 4 - 1];
	}
	return (mode & FILE_TYPE) == CHARACTER_DEVICE ? number : 0;
}

#define NO_SECTION -1

/* Action for a device that an episode opens or uses; ALLOW where only the verdict will say otherwise. */
static __always_inline int gpu_judgement(u32 episode, u32 device, int is_judged)
{
	struct episode_config *config = config_of(episode);
	if (!episode || !config)
		return NO_SECTION;
	if (config->doomed)
		return ACTION_KILL;
	if (!config->gpu)
		return NO_SECTION;
	return config->enforce && is_judged ? gpu_action(episode, device) : ACTION_ALLOW;
}

/* An ioctl cannot be refused after the fact: on a device that is denied, making or using a context (by a
 * descriptor from elsewhere, since opening was refused) ends the process before it can go on. */
static __always_inline u32 judge_call(u32 episode, struct gpu_call *call)
{
	int action = gpu_judgement(episode, call->device, call->kind == GPU_CONTEXT || call->kind == GPU_SUBMIT);
	if (action == NO_SECTION)
		return DECISION_NONE;
	if (action < ACTION_DENY)
		return DECISION_ALLOW;
	bpf_send_signal(9);
	return DECISION_KILL;
}

int on_ioctl_exit(struct syscall_exit *ctx)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 0;

	struct task_struct *task = bpf_get_current_task_btf();
	u64 registers = bpf_task_pt_regs(task), fd, command, argument;
	LOAD(u64, fd, registers, ARGUMENT_0);
	struct gpu_device *device = gpu_device_of(character_device_behind(task, fd));
	if (!device)
		return 0;
	LOAD(u64, command, registers, ARGUMENT_1);
	LOAD(u64, argument, registers, ARGUMENT_2);

	struct gpu_call call = {};
	decode_call(&call, device, command, argument);
	int first = count_call(tgid, start_of_current(tag), episode, &call, 0);
	if (!first && call.kind != GPU_CONTEXT)
		return 0;
	u32 decision = judge_call(episode, &call);
	report_call(tgid, tag, &call, ctx->result < 0 ? -ctx->result : 0, decision);
	return 0;
}

static __always_inline u32 judge_open(u32 episode, u32 device)
{
	int action = gpu_judgement(episode, device, 1);
	if (action == NO_SECTION)
		return DECISION_NONE;
	if (action < ACTION_DENY)
		return DECISION_ALLOW;
	if (action != ACTION_KILL)
		return DECISION_DENY;
#if SIGNAL_FROM_DEVICE_HOOK
	bpf_send_signal(9);
	return DECISION_KILL;
#else
	return DECISION_DENY;
#endif
}

/* Called for open(2) in all its forms, and for access(2). Returns 1 to let it pass, 0 to answer EPERM. */
int on_device_open(struct bpf_cgroup_dev_ctx *ctx)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 1;

	u32 access = ctx->access_type;
	if ((access & 0xffff) != BPF_DEVCG_DEV_CHAR || !(access >> 16 & (BPF_DEVCG_ACC_READ | BPF_DEVCG_ACC_WRITE)))
		return 1;
	struct gpu_device *device = gpu_device_of(ctx->major << MINOR_BITS | ctx->minor);
	if (!device)
		return 1;

	struct gpu_call call = {.kind = GPU_OPEN};
	call.driver = device->driver;
	call.device = device->index;
	u32 decision = judge_open(episode, call.device);
	int denied = decision == DECISION_DENY || decision == DECISION_KILL;
	if (denied || count_call(tgid, start_of_current(tag), episode, &call, 1))
		report_call(tgid, tag, &call, denied ? 1 : 0, decision);
	if (denied)
		return 0;
	return 1;
}
