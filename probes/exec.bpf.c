/* What ran, as the kernel knows it; and nothing denied runs.
 *
 * Hooks: raw tracepoint sched_process_exec (arguments: task, old pid, linux_binprm; since 4.17), which fires
 * after the new image is in place and before its first instruction: argv is read once from the new process's
 * memory, where nobody has had a chance to change it. Failures come from the tracepoints
 * syscalls:sys_exit_execve and sys_exit_execveat (the name is read at exit, when its page is present).
 * A denied executable is killed here by a signal that is pending before its first instruction.
 * Cannot see: what a running interpreter loads afterwards; failures of 32-bit callers.
 */

struct exec_key {
	u64 inode;
	u32 device;
	u32 episode;
};
BPF_HASH(exec_deny, struct exec_key, u32, EXEC_DENY_MAX);

/* Room for exe, cwd and filename before argv. A power of two: offsets into it are masked, which the verifier
 * follows more cheaply, and more surely, than comparisons. */
#define PATHS_BYTES 16384
#define EXEC_DATA_MAX (PATHS_BYTES + ARGV_MAX)
#define PATH_COMPONENTS_MAX 64

struct exec_scratch {
	/* Bytes of data in use. Kept here rather than in a register because the verifier then knows nothing of it
	 * and finds one turn of a loop like the next: 15 times fewer states, and as much less start-up time. */
	u64 used;
	struct exec_record record;
	char data[EXEC_DATA_MAX];
};
/* One slot a CPU: a per-CPU map's value may not exceed 32 KiB. */
BPF_ARRAY(exec_scratches, struct exec_scratch, CPUS_MAX);

/* Appends the components of a path, leaf first, each with its terminating zero, while less than `limit` bytes
 * are in use. */
static __always_inline void append_path(struct exec_scratch *scratch, u64 limit, u64 mnt, u64 dentry,
					u32 truncated_flag, u32 detached_flag)
{
	for (int i = 0; i < PATH_COMPONENTS_MAX; i++) {
		u64 root = 0, parent = 0, name = 0;
		READ(root, mnt, OFF_vfsmount_mnt_root);
		if (dentry == root) {
			u64 mount = mnt - OFF_mount_mnt, above = 0;
			READ(above, mount, OFF_mount_mnt_parent);
			if (above == mount)
				return;
			READ(dentry, mount, OFF_mount_mnt_mountpoint);
			mnt = above + OFF_mount_mnt;
			continue;
		}
		READ(parent, dentry, OFF_dentry_d_parent);
		READ(name, dentry, OFF_dentry_d_name_name);
		u64 used = scratch->used;
		if (used >= limit)
			break;
		long bytes = bpf_probe_read_kernel_str(&scratch->data[used & (PATHS_BYTES - 1)], NAME_BYTES_MAX,
						       (void *)name);
		if (bytes <= 0)
			break;
		scratch->used = used + bytes;
		if (parent == dentry) { /* no mount below it: a memory file, or a tree that was detached */
			scratch->record.flags |= detached_flag;
			return;
		}
		dentry = parent;
	}
	scratch->record.flags |= truncated_flag;
}

static __always_inline u32 exec_decision(u32 episode, struct exec_record *record)
{
	struct episode_config *config = config_of(episode);
	if (!episode || !config || !config->exec)
		return DECISION_NONE;
	struct exec_key key = {.inode = record->inode, .device = record->device, .episode = episode};
	if (!exec_deny.lookup(&key))
		return DECISION_ALLOW;
	if (!config->enforce)
		return DECISION_ALLOW;
	bpf_send_signal(9);
	return DECISION_KILL;
}

#if defined(OFF_file_private_data) && defined(OFF_socket_sk)
#define STDIO_DESCRIPTORS 3

/* How much a peer tells: 1 none (not connected), 2 loopback, 3 another host. A harmless socket on one descriptor does
 * not hide the telling one on the next. */
static __always_inline u8 peer_rank(u32 *address)
{
	if (address[0] | address[1])
		return 3;
	u32 last = bpf_ntohl(address[3]), mapped = address[2] == bpf_htonl(0xffff);
	if (!last)
		return 1;
	if (mapped ? last >> 24 == 127 : !address[2] && last == 1)
		return 2;
	return 3;
}

/* The peer of the most telling internet socket among stdin, stdout and stderr. Whatever was to be closed on exec has
 * been closed, and the table is the task's own. */
static __always_inline void find_stdio_peer(u64 task, struct exec_record *record)
{
	u64 files = 0, table = 0, array = 0, before = 0, open[STDIO_DESCRIPTORS] = {};
	u8 best = 0;
	READ(files, task, OFF_task_struct_files);
	READ(table, files, OFF_files_struct_fdt);
	READ(array, table, OFF_fdtable_fd);
	READ(open, array, 0); /* no table has fewer than 64 */
#pragma unroll
	for (int i = 0; i < STDIO_DESCRIPTORS; i++) {
		u64 inode = 0, socket = 0, sk = 0;
		u16 mode = 0, family = 0, port = 0;
		if (!open[i] || open[i] == before)
			continue;
		before = open[i];
		READ(inode, open[i], OFF_file_f_inode);
		READ(mode, inode, OFF_inode_i_mode);
		if ((mode & 0170000) != 0140000) /* S_IFSOCK */
			continue;
		READ(socket, open[i], OFF_file_private_data);
		READ(sk, socket, OFF_socket_sk);
		READ(family, sk, OFF_sock_common_skc_family);
		u32 address[4] = {0, 0, bpf_htonl(0xffff), 0};
		if (family == 10)
			READ(address, sk, OFF_sock_common_skc_v6_daddr);
		else if (family == 2)
			READ(address[3], sk, OFF_sock_common_skc_daddr);
		else
			continue;
		u8 rank = peer_rank(address);
		if (rank <= best)
			continue;
		best = rank;
		READ(port, sk, OFF_sock_common_skc_dport);
		__builtin_memcpy(record->stdio_address, address, sizeof(address));
		record->stdio_port = bpf_ntohs(port);
		record->stdio_family = family == 10 ? 6 : 4;
	}
}
#endif

int on_exec(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = bpf_get_current_task(), binprm = ctx->args[2];
	u64 mm = 0, file = 0, inode = 0, block = 0, parent = 0, mnt = 0, dentry = 0, fs = 0;
	u64 filename = 0, interpreter = 0, argv_start = 0, argv_end = 0;
	u32 links = 0;

	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : episode_of_cgroup(cgroup_of(task));
	if (!wanted(episode))
		return 0;
	if (!tag && episode)
		set_tag(tgid, episode, 0);
	die_if_doomed(episode);

	u32 cpu = bpf_get_smp_processor_id();
	struct exec_scratch *scratch = exec_scratches.lookup(&cpu);
	if (!scratch)
		return 0;
	struct exec_record *record = &scratch->record;
	fill_header_current(&record->header, RECORD_EXEC, tgid, tag);
	record->header.episode = episode;
	record->flags = 0;

	READ(mm, task, OFF_task_struct_mm);
	READ(file, mm, OFF_mm_struct_exe_file);
	READ(inode, file, OFF_file_f_inode);
	READ(record->inode, inode, OFF_inode_i_ino);
	READ(block, inode, OFF_inode_i_sb);
	READ(record->device, block, OFF_super_block_s_dev);
	READ(links, inode, OFF_inode___i_nlink);
	READ(parent, task, OFF_task_struct_real_parent);
	READ(record->parent_pid, parent, OFF_task_struct_tgid);
	if (!links)
		record->flags |= EXEC_DELETED;
	record->decision = exec_decision(episode, record);

	__builtin_memset(record->stdio_address, 0, sizeof(record->stdio_address));
	record->stdio_port = 0;
	record->stdio_family = 0;
#if defined(OFF_file_private_data) && defined(OFF_socket_sk)
	find_stdio_peer(task, record);
#endif

	READ(mnt, file, OFF_file_f_path_mnt);
	READ(dentry, file, OFF_file_f_path_dentry);
	scratch->used = 0;
	append_path(scratch, PATH_BYTES_MAX, mnt, dentry, EXEC_EXE_TRUNCATED, EXEC_DETACHED);
	record->exe_bytes = scratch->used;
	READ(fs, task, OFF_task_struct_fs);
	READ(mnt, fs, OFF_fs_struct_pwd_mnt);
	READ(dentry, fs, OFF_fs_struct_pwd_dentry);
	append_path(scratch, 2 * PATH_BYTES_MAX, mnt, dentry, EXEC_CWD_TRUNCATED, 0);
	record->cwd_bytes = scratch->used - record->exe_bytes;

	READ(filename, binprm, OFF_linux_binprm_filename);
	READ(interpreter, binprm, OFF_linux_binprm_interp);
	if (interpreter != filename)
		record->flags |= EXEC_SCRIPT;
	record->filename_bytes = 0;
	u64 used = scratch->used;
	long bytes =
		bpf_probe_read_kernel_str(&scratch->data[used & (PATHS_BYTES - 1)], PATH_BYTES_MAX, (void *)filename);
	if (bytes > 0) {
		record->filename_bytes = bytes;
		scratch->used = used + bytes;
	}

	READ(argv_start, mm, OFF_mm_struct_arg_start);
	READ(argv_end, mm, OFF_mm_struct_arg_end);
	record->argv_total = argv_end - argv_start;
	u64 argv_bytes = record->argv_total > ARGV_MAX ? ARGV_MAX : record->argv_total;
	record->argv_bytes = 0;
	used = scratch->used;
	OPAQUE(argv_bytes);
	if (argv_bytes <= ARGV_MAX) {
		if (bpf_probe_read_user(&scratch->data[used & (PATHS_BYTES - 1)], argv_bytes, (void *)argv_start)) {
			record->flags |= EXEC_ARGV_UNREADABLE;
		} else {
			record->argv_bytes = argv_bytes;
			scratch->used = used + argv_bytes;
		}
	}

	count_emitted(episode);
	u64 total = sizeof(*record) + scratch->used;
	OPAQUE(total);
	if (total > sizeof(*record) + EXEC_DATA_MAX || events.ringbuf_output(record, total, wake_flags()))
		count_lost(episode);
	return 0;
}

/* Layout of a syscalls:sys_exit_* tracepoint, the same for all (its `format` file). */
struct syscall_exit {
	u64 common;
	s32 number;
	u32 reserved;
	s64 result;
};

/* First three arguments of the system call that the current task is leaving, as it passed them. */
struct syscall_arguments {
	u64 third, second, first;
};

#if defined(__TARGET_ARCH_arm64)
#error "the saved registers of arm64 are not mapped yet"
#endif

static __always_inline void read_syscall_arguments(struct syscall_arguments *arguments)
{
	/* dx, si, di of struct pt_regs: arch/x86/include/asm/ptrace.h */
	u64 registers = bpf_task_pt_regs(bpf_get_current_task_btf());
	bpf_probe_read_kernel(arguments, sizeof(*arguments), (void *)(registers + 96));
}

static __always_inline int report_failed_exec(struct syscall_exit *ctx, int name_is_second)
{
	if (ctx->result >= 0)
		return 0;
	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 0;
	struct syscall_arguments arguments = {};
	read_syscall_arguments(&arguments);

	u32 cpu = bpf_get_smp_processor_id();
	struct exec_scratch *scratch = exec_scratches.lookup(&cpu);
	if (!scratch)
		return 0;
	struct failed_scratch {
		struct exec_failed_record record;
		char filename[PATH_BYTES_MAX];
	} *failed = (void *)scratch;
	struct exec_failed_record *record = &failed->record;
	fill_header_current(&record->header, RECORD_EXEC_FAILED, tgid, tag);
	record->error = -ctx->result;
	record->filename_bytes = 0;
	long bytes = bpf_probe_read_user_str(failed->filename, sizeof(failed->filename),
					     (void *)(name_is_second ? arguments.second : arguments.first));
	if (bytes > 0)
		record->filename_bytes = bytes;

	count_emitted(episode);
	u64 total = sizeof(*record) + record->filename_bytes;
	OPAQUE(total);
	if (total > sizeof(*failed) || events.ringbuf_output(record, total, wake_flags()))
		count_lost(episode);
	return 0;
}

int on_execve_exit(struct syscall_exit *ctx)
{
	return report_failed_exec(ctx, 0);
}

int on_execveat_exit(struct syscall_exit *ctx)
{
	return report_failed_exec(ctx, 1);
}
