/* Where to, before anything leaves the host; how it ended; and nothing denied leaves.
 *
 * Hooks: cgroup sock_addr programs connect4/6 and sendmsg4/6 (5.7 for links), attached at the cgroup2 ROOT and
 * filtered by the current task's tag: the socket's cgroup, not the task's, decides which programs run, so a
 * program on the episode's own cgroup is evaded by a socket that was made outside. They see io_uring, 32-bit
 * callers, TCP fast open and unconnected UDP too. connect_unix and sendmsg_unix since 6.7; before that the
 * tracepoint syscalls:sys_enter_connect reports Unix sockets (no denial, blind to io_uring).
 * Results: raw tracepoint inet_sock_set_state for TCP; syscalls:sys_exit_connect for failures before that.
 * Cannot see: packet and vsock sockets (for raw ones see socket.bpf.c); sendmsg on a socket connected before the
 * episode; what a Unix path resolves to, before the connect: a forbidden socket reached by a link is known by the
 * server's name for it when the system call returns, and only an entry that kills can then do something.
 */

#define IPV4_MAPPED 0xffff0000 /* third word of ::ffff:0:0/96, network order */
#define PORT_RULES_MAX 16

struct network_key {
	u32 prefix_bits; /* of what follows: 32 for the episode, then those of the address */
	u32 episode;
	u8 address[16];
};
struct port_rule {
	u16 port_low;
	u16 port_high;
	u8 protocol; /* 0: any */
	u8 action;
	u8 reserved[2];
};
struct network_rules {
	u32 count;
	struct port_rule rules[PORT_RULES_MAX];
};
BPF_LPM_TRIE(network, struct network_key, struct network_rules, NODES_MAX);

struct unix_key {
	u32 prefix_bits;
	u32 episode;
	u8 path[UNIX_PATH_MAX]; /* an exact entry includes the terminating zero */
};
BPF_LPM_TRIE(unix_network, struct unix_key, u32, NODES_MAX);

/* TCP connects that have no answer yet, by kernel socket. */
struct pending_connect {
	u64 start_ns;
	u32 tgid;
	u32 episode;
	u32 uid;
	u32 thread;
	char comm[COMM_MAX];
};
BPF_HASH(pending_connects, u64, struct pending_connect, PENDING_MAX);

/* Member by member: an initialiser becomes a constant in .rodata, which bcc does not relocate. */
static __always_inline void clear_address(u32 *address)
{
	address[0] = address[1] = address[3] = 0;
	address[2] = IPV4_MAPPED;
}

static __always_inline u32 network_action(u32 episode, const u8 *address, u16 port, u8 protocol)
{
	struct network_key key = {.prefix_bits = 32 + 128, .episode = episode};
	__builtin_memcpy(key.address, address, sizeof(key.address));
	struct network_rules *found = network.lookup(&key);
	if (!found)
		return ACTION_ALLOW;
	for (u32 i = 0; i < PORT_RULES_MAX; i++) {
		struct port_rule *rule = &found->rules[i];
		if (i >= found->count)
			break;
		if (port >= rule->port_low && port <= rule->port_high &&
		    (!rule->protocol || rule->protocol == protocol))
			return rule->action;
	}
	return ACTION_ALLOW;
}

/* What is done about an action here and now. Where the kernel lets a cgroup hook send signals (not 6.12),
 * a kill is carried out at once; else the act is refused, and Python does the killing. */
static __always_inline u32 carry_out(struct episode_config *config, u32 action)
{
	if (!config->enforce || action < ACTION_DENY)
		return DECISION_ALLOW;
	if (action != ACTION_KILL)
		return DECISION_DENY;
#if SIGNAL_FROM_CGROUP_HOOKS
	bpf_send_signal(9);
	return DECISION_KILL;
#else
	return DECISION_DENY;
#endif
}

static __always_inline int refused(u32 decision)
{
	return decision == DECISION_DENY || decision == DECISION_KILL;
}

/* While the reader is far behind, attempts are counted instead of handed over (and still refused, where they
 * are): a flood of connects leaves room for the exec that it is meant to hide. */
static __always_inline struct connect_record *reserve_attempt(u32 episode)
{
	count_emitted(episode);
	struct connect_record *record = crowded() ? NULL : events.ringbuf_reserve(sizeof(struct connect_record));
	if (!record)
		count_lost(episode);
	return record;
}

static __always_inline void report_attempt(u32 tgid, struct tag *tag, const u32 *address, u16 port, u8 family,
					   u8 protocol, u32 decision)
{
	struct connect_record *record = reserve_attempt(tag ? tag->episode : 0);
	if (!record)
		return;
	fill_header_current(&record->header, RECORD_CONNECT, tgid, tag);
	__builtin_memcpy(record->address, address, sizeof(record->address));
	record->port = port;
	record->family = family;
	record->protocol = protocol;
	record->decision = decision;
	record->reserved[0] = record->reserved[1] = record->reserved[2] = 0;
	record->error = 0;
	record->thread = bpf_get_current_pid_tgid();
	events.ringbuf_submit(record, wake_flags());
}

/* Returns 1 to let the act pass, 0 to answer EPERM. */
static __always_inline int judge_connect(struct bpf_sock_addr *ctx, int family)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 1;

	u32 address[4];
	clear_address(address);
	if (family == 6) {
		address[0] = ctx->user_ip6[0];
		address[1] = ctx->user_ip6[1];
		address[2] = ctx->user_ip6[2];
		address[3] = ctx->user_ip6[3];
	} else {
		address[3] = ctx->user_ip4;
	}
	u16 port = bpf_ntohs(ctx->user_port);
	u8 protocol = ctx->protocol;
	u32 decision = DECISION_NONE;
	struct episode_config *config = config_of(episode);
	if (episode && config) {
		if (config->doomed)
			decision = DECISION_DENY;
		else if (config->network)
			decision = carry_out(config, network_action(episode, (u8 *)address, port, protocol));
	}
	report_attempt(tgid, tag, address, port, family, protocol, decision);
	if (refused(decision))
		return 0;
	return 1;
}

/* For connect4 and sendmsg4. */
int on_destination4(struct bpf_sock_addr *ctx)
{
	return judge_connect(ctx, 4);
}

/* For connect6 and sendmsg6. */
int on_destination6(struct bpf_sock_addr *ctx)
{
	return judge_connect(ctx, 6);
}

/* A value of unix_network: the action in the low byte, and above it the length of an exact entry's path. An abstract
 * name may hold zeros, so that an exact entry is a mere prefix of it: then the next shorter entry decides. */
static __always_inline u32 unix_action(u32 episode, struct episode_config *config, const char *path, u32 bytes)
{
	struct unix_key key = {.prefix_bits = 32 + 8 * UNIX_PATH_MAX, .episode = episode};
	__builtin_memcpy(key.path, path, sizeof(key.path));
	u32 *action = unix_network.lookup(&key);
	u32 exact_bytes = action ? *action >> 8 : 0;
	if (exact_bytes && !path[0] && bytes != exact_bytes) {
		key.prefix_bits = 32 + 8 * exact_bytes;
		action = unix_network.lookup(&key);
	}
	return action ? *action & 0xff : config->unix_default;
}

/* For a tracepoint, which cannot refuse, but can kill before the process learns that it is connected. */
static __always_inline u32 watch_only(struct episode_config *config, u32 action)
{
	if (!config->enforce || action != ACTION_KILL)
		return DECISION_ALLOW;
	bpf_send_signal(9);
	return DECISION_KILL;
}

static __always_inline int judge_unix(u32 type, u64 sockaddr, int length, int from_user, int may_refuse)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 1;

	count_emitted(episode);
	struct connect_unix_record *record = crowded() ? NULL : events.ringbuf_reserve(sizeof(*record));
	char path[UNIX_PATH_MAX] = {};
	u64 bytes = length > 2 ? length - 2 : 0; /* without sun_family */
	if (bytes > UNIX_PATH_MAX)
		bytes = UNIX_PATH_MAX;
	OPAQUE(bytes);
	bytes &= 127;
	if (bytes <= UNIX_PATH_MAX) {
		if (from_user)
			bpf_probe_read_user(path, bytes, (void *)(sockaddr + 2));
		else
			bpf_probe_read_kernel(path, bytes, (void *)(sockaddr + 2));
	}
	u32 decision = DECISION_NONE;
	struct episode_config *config = config_of(episode);
	if (episode && config) {
		if (config->doomed)
			decision = DECISION_DENY;
		else if (config->network && may_refuse)
			decision = carry_out(config, unix_action(episode, config, path, bytes));
		else if (config->network)
			decision = watch_only(config, unix_action(episode, config, path, bytes));
	}

	if (!record) {
		count_lost(episode);
	} else {
		fill_header_current(&record->header, RECORD_CONNECT_UNIX, tgid, tag);
		record->type = type;
		record->decision = decision;
		record->path_bytes = bytes;
		record->thread = bpf_get_current_pid_tgid();
		__builtin_memcpy(record->path, path, sizeof(path));
		__builtin_memset(record->reserved, 0, sizeof(record->reserved));
		events.ringbuf_submit(record, wake_flags());
	}
	if (refused(decision))
		return 0;
	return 1;
}

#ifdef OFF_bpf_sock_addr_kern_uaddrlen
/* For connect_unix and sendmsg_unix. */
int on_destination_unix(struct bpf_sock_addr *ctx)
{
	/* The address is not among the context's documented fields; the context itself is readable memory:
	 * struct bpf_sock_addr_kern, include/linux/filter.h. */
	u64 address = 0;
	u32 length = 0;
	READ(address, ctx, OFF_bpf_sock_addr_kern_uaddr);
	READ(length, ctx, OFF_bpf_sock_addr_kern_uaddrlen);
	return judge_unix(ctx->type, address, length, 0, 1);
}
#else
struct connect_enter {
	u64 common;
	s32 number;
	u32 reserved;
	u64 fd;
	u64 address;
	u64 length;
};

int on_connect_enter(struct connect_enter *ctx)
{
	u16 family = 0;
	if (!wanted(episode_of(current_tgid())))
		return 0;
	bpf_probe_read_user(&family, sizeof(family), (void *)ctx->address);
	if (family == 1) /* AF_UNIX */
		judge_unix(0, ctx->address, ctx->length, 1, 0);
	return 0;
}
#endif

#define TCP_ESTABLISHED 1
#define TCP_SYN_SENT 2
#define IPPROTO_TCP_NUMBER 6

static __always_inline int report_done(struct pending_connect *pending, u64 socket, s32 error)
{
	u32 episode = pending->episode;
	count_emitted(episode);
	struct connect_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return 0;
	}
	fill_header(&record->header, RECORD_CONNECT_DONE, episode, pending->tgid, pending->start_ns);
	/* Answers arrive in whatever context the packet found: what names the process was kept. */
	record->header.uid = pending->uid;
	__builtin_memcpy(record->header.comm, pending->comm, COMM_MAX);
	u16 family = 0, port = 0;
	u32 address[4];
	clear_address(address);
	READ(family, socket, OFF_sock_common_skc_family);
	READ(port, socket, OFF_sock_common_skc_dport);
	if (family == 10)
		READ(address, socket, OFF_sock_common_skc_v6_daddr);
	else
		READ(address[3], socket, OFF_sock_common_skc_daddr);
	__builtin_memcpy(record->address, address, sizeof(record->address));
	record->port = bpf_ntohs(port);
	record->family = family == 10 ? 6 : 4;
	record->protocol = IPPROTO_TCP_NUMBER;
	record->decision = DECISION_NONE;
	record->reserved[0] = record->reserved[1] = record->reserved[2] = 0;
	record->error = error;
	record->thread = pending->thread;
	events.ringbuf_submit(record, wake_flags());
	return 0;
}

int on_tcp_state(struct bpf_raw_tracepoint_args *ctx)
{
	u64 socket = ctx->args[0];
	int old_state = ctx->args[1], new_state = ctx->args[2];

	if (new_state == TCP_SYN_SENT) {
		u32 tgid = current_tgid();
		struct tag *tag = tags.lookup(&tgid);
		u32 episode = tag ? tag->episode : 0;
		if (!wanted(episode))
			return 0;
		if (die_if_doomed(episode))
			return 0;
		struct pending_connect pending = {.tgid = tgid, .episode = episode};
		pending.start_ns = tag && tag->start_ns ? tag->start_ns : start_of(bpf_get_current_task());
		pending.uid = bpf_get_current_uid_gid();
		pending.thread = bpf_get_current_pid_tgid();
		bpf_get_current_comm(pending.comm, sizeof(pending.comm));
		if (pending_connects.update(&socket, &pending)) {
			count_emitted(episode);
			count_lost(episode);
		}
		return 0;
	}
	if (old_state != TCP_SYN_SENT)
		return 0;
	struct pending_connect *pending = pending_connects.lookup(&socket);
	if (!pending)
		return 0;
	int error = 0;
	if (new_state != TCP_ESTABLISHED) {
		READ(error, socket, OFF_sock_sk_err);
		if (!error)
			error = 125; /* ECANCELED: closed by its owner before there was an answer */
	}
	report_done(pending, socket, error);
	pending_connects.delete(&socket);
	return 0;
}

#if defined(OFF_unix_address_name) && defined(OFF_file_private_data) && defined(OFF_socket_sk)
#define KNOWS_UNIX_PEER
/* A path says little: a link, or another spelling, leads to the same socket. Once connected, the server's own name for
 * it is known; where an entry kills for that, the process ends before it can send a word. Entries that merely deny
 * stay with the path that was given: it is too late to refuse. */
static __always_inline void judge_unix_peer(u64 descriptor)
{
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	struct episode_config *config = tag ? config_of(tag->episode) : NULL;
	if (!config || !config->enforce || !config->unix_kill)
		return;

	u64 files = 0, table = 0, array = 0, file = 0, socket = 0, sk = 0, peer = 0, address = 0;
	u16 family = 0;
	READ(files, bpf_get_current_task(), OFF_task_struct_files);
	READ(table, files, OFF_files_struct_fdt);
	READ(array, table, OFF_fdtable_fd);
	READ(file, array, (descriptor & 0xffffffff) * 8);
	READ(socket, file, OFF_file_private_data);
	READ(sk, socket, OFF_socket_sk);
	READ(family, sk, OFF_sock_common_skc_family);
	if (family != 1) /* AF_UNIX */
		return;
	READ(peer, sk, OFF_unix_sock_peer);
	READ(address, peer, OFF_unix_sock_addr);
	if (!peer || !address)
		return; /* the server has no name */

	char path[UNIX_PATH_MAX] = {};
	int length = 0;
	READ(length, address, OFF_unix_address_len);
	u64 bytes = length > 2 ? length - 2 : 0;
	if (bytes > UNIX_PATH_MAX)
		bytes = UNIX_PATH_MAX;
	OPAQUE(bytes);
	bytes &= 127;
	if (bytes <= UNIX_PATH_MAX)
		bpf_probe_read_kernel(path, bytes, (void *)(address + OFF_unix_address_name + 2));
	if (unix_action(tag->episode, config, path, bytes) != ACTION_KILL)
		return;
	bpf_send_signal(9);
	count_emitted(tag->episode);
	struct connect_unix_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(tag->episode);
		return;
	}
	fill_header_current(&record->header, RECORD_CONNECT_UNIX, tgid, tag);
	record->type = 0;
	record->decision = DECISION_KILL;
	record->path_bytes = bytes;
	record->thread = bpf_get_current_pid_tgid();
	__builtin_memcpy(record->path, path, sizeof(path));
	__builtin_memset(record->reserved, 0, sizeof(record->reserved));
	events.ringbuf_submit(record, wake_flags());
}
#endif

/* A connect that failed before TCP began (no route, no address, no such path, refused by another program) has no
 * state change to show. */
int on_connect_exit(struct syscall_exit *ctx)
{
#ifdef KNOWS_UNIX_PEER
	if (ctx->result == 0) {
		struct syscall_arguments arguments = {};
		read_syscall_arguments(&arguments);
		judge_unix_peer(arguments.first);
	}
#endif
	if (ctx->result >= 0 || ctx->result == -115 /* EINPROGRESS */ || ctx->result == -114 /* EALREADY */ ||
	    ctx->result == -106 /* EISCONN */ || ctx->result == -4 /* EINTR */ ||
	    ctx->result <= -512 /* ERESTARTSYS */)
		return 0; /* it goes on, or a signal interrupted the wait for it */
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 0;
	count_emitted(episode);
	struct connect_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return 0;
	}
	fill_header_current(&record->header, RECORD_CONNECT_DONE, tgid, tag);
	__builtin_memset(record->address, 0, sizeof(record->address));
	record->port = 0;
	record->family = 0;
	record->protocol = 0;
	record->decision = DECISION_NONE;
	record->reserved[0] = record->reserved[1] = record->reserved[2] = 0;
	record->error = -ctx->result;
	record->thread = bpf_get_current_pid_tgid();
	events.ringbuf_submit(record, wake_flags());
	return 0;
}
