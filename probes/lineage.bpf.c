/* No shedding the tag: who forked whom, who ended, who changed cgroup.
 *
 * Hooks: raw tracepoints sched_process_fork, sched_process_exit, cgroup_attach_task (all since 4.17).
 * A child gets its parent's tag before it runs; one born into an episode's cgroup by clone3 from outside,
 * or moved there, gets that episode's. Threads share their group's tag.
 * Cannot see: a process started on request by a daemon outside the episode (dockerd, systemd-run).
 */

int on_fork(struct bpf_raw_tracepoint_args *ctx)
{
	u64 parent = ctx->args[0], child = ctx->args[1];
	u32 parent_tgid = 0, child_tgid = 0, episode = 0;
	u64 parent_start_ns = 0, child_start_ns = 0;

	READ(parent_tgid, parent, OFF_task_struct_tgid);
	READ(child_tgid, child, OFF_task_struct_tgid);
	if (child_tgid == parent_tgid)
		return 0;

	struct tag *tag = tags.lookup(&parent_tgid);
	if (tag) {
		episode = tag->episode;
		parent_start_ns = tag->start_ns;
	} else {
		episode = episode_of_cgroup(cgroup_of(child));
	}
	if (!wanted(episode))
		return 0;
	READ(child_start_ns, child, OFF_task_struct_start_boottime);
	if (episode)
		set_tag(child_tgid, episode, child_start_ns);
	if (!parent_start_ns) {
		parent_start_ns = start_of(parent);
		if (tag)
			tag->start_ns = parent_start_ns;
	}
	if (tag)
		die_if_doomed(episode);

	count_emitted(episode);
	struct fork_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return 0;
	}
	fill_header(&record->header, RECORD_FORK, episode, parent_tgid, parent_start_ns);
	record->child_start_ns = child_start_ns;
	record->child_pid = child_tgid;
	record->reserved = 0;
	events.ringbuf_submit(record, wake_flags());
	return 0;
}

#define SIGNAL_GROUP_EXIT 4

int on_exit(struct bpf_raw_tracepoint_args *ctx)
{
	u64 task = ctx->args[0], group = 0;
	u32 live = 1, flags = 0, status = 0;

	u32 tgid = current_tgid();
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	if (!wanted(episode))
		return 0;
	READ(group, task, OFF_task_struct_signal);
	READ(live, group, OFF_signal_struct_live);
	if (live)
		return 0; /* a thread; the process lives on */
	READ(flags, group, OFF_signal_struct_flags);
	if (flags & SIGNAL_GROUP_EXIT)
		READ(status, group, OFF_signal_struct_group_exit_code);
	else
		READ(status, task, OFF_task_struct_exit_code);

	u64 start_ns = tag && tag->start_ns ? tag->start_ns : start_of(task);
	/* Two last threads may both find nobody alive: the one that removes the tag reports. */
	if (tag && tags.delete(&tgid))
		return 0;

	count_emitted(episode);
	struct exit_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return 0;
	}
	fill_header(&record->header, RECORD_EXIT, episode, tgid, start_ns);
	record->status = status;
	record->reserved = 0;
	events.ringbuf_submit(record, wake_flags());
	return 0;
}

int on_cgroup_move(struct bpf_raw_tracepoint_args *ctx)
{
	u64 cgroup = ctx->args[0], path = ctx->args[1], task = ctx->args[2], root = 0;
	u32 hierarchy = 1, tgid = 0;

	READ(root, cgroup, OFF_cgroup_root);
	READ(hierarchy, root, OFF_cgroup_root_hierarchy_id);
	if (hierarchy != 0)
		return 0; /* a v1 hierarchy: says nothing of episodes */
	READ(tgid, task, OFF_task_struct_tgid);
	u32 by = current_tgid();
	u32 target = episode_of_cgroup(cgroup), adopted = 0;
	struct tag *tag = tags.lookup(&tgid);
	u32 episode = tag ? tag->episode : 0;
	u64 start_ns = start_of(task);
	if (!episode && target) {
		set_tag(tgid, target, start_ns);
		episode = target;
		adopted = 1;
	}
	if (!episode || by == auditor_pid())
		return 0;

	count_emitted(episode);
	struct cgroup_move_record *record = events.ringbuf_reserve(sizeof(*record));
	if (!record) {
		count_lost(episode);
		return 0;
	}
	fill_header(&record->header, RECORD_CGROUP_MOVE, episode, tgid, start_ns);
	record->cgroup_id = cgroup_id_of(cgroup);
	record->by_pid = by;
	record->inside = target == episode;
	record->adopted = adopted;
	int bytes = bpf_probe_read_kernel_str(record->path, sizeof(record->path), (void *)path);
	record->path_bytes = bytes > 0 ? bytes : 0;
	events.ringbuf_submit(record, wake_flags());
	return 0;
}
