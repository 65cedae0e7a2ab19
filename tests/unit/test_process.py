"""Who is who: lives of a pid, inheritance, and the trees below an episode's root."""

from ebpfaudit.events import Exec, Exit, Fork, Seen
from ebpfaudit.process import MAX_DEPARTED, ProcessKey, ProcessTable


def execute(table, pid, start, exe, *argv, **more):
    return table.execute(Exec(1, pid, start, 1, exe, argv, "/w", exe[-15:], 1000, **more))


def family() -> ProcessTable:
    """root 1 -> agent 2 -> shell 3; root 1 -> other 4."""
    table = ProcessTable()
    table.set_root(1, 10)
    execute(table, 1, 10, "/bin/run", "run")
    for parent, child in ((1, 2), (2, 3), (1, 4)):
        table.fork(Fork(1, parent, 10, child, 10))
    return table


def test_children_of_the_root_head_the_trees():
    table = family()

    assert table.get(3, 10).tree is table.get(2, 10)
    assert {process.pid for process in table.tree_of(table.get(3, 10))} == {2, 3}
    assert table.get(4, 10).tree is table.get(4, 10)
    assert table.root is not None and table.root.tree is table.root


def test_tree_outlives_its_head():
    table = family()
    table.exit(Exit(1, 2, 10))

    assert {process.pid for process in table.tree_of(table.get(3, 10))} == {3}


def test_child_inherits_what_its_parent_runs_until_it_executes():
    table = family()
    execute(table, 2, 10, "/bin/sh", "sh", "x.sh", filename="/w/x.sh", script=True, memfd=True)
    table.fork(Fork(1, 2, 10, 5, 10))
    child = table.get(5, 10)

    assert (child.exe, child.argv, child.cwd, child.script, child.uid) == (
        "/bin/sh",
        ("sh", "x.sh"),
        "/w",
        "/w/x.sh",
        1000,
    )
    assert child.memfd
    execute(table, 5, 10, "/bin/ls", "ls", filename="ls")
    assert (child.exe, child.script, child.memfd, child.ppid) == ("/bin/ls", "", False, 1)


def test_failed_exec_says_nothing_of_its_process():
    table = family()
    execute(table, 2, 10, "/bin/sh", "sh")
    execute(table, 2, 10, "nothing", "nothing", error="ENOENT")

    assert table.get(2, 10).exe == "/bin/sh"


def test_two_lives_of_a_pid_are_two_processes():
    table = family()
    execute(table, 3, 10, "/bin/a", "a")
    table.fork(Fork(1, 4, 10, 3, 99))

    assert table.get(3, 99).key == ProcessKey(3, 99)
    assert table.get(3, 99).tree is table.get(4, 10)
    table.exit(Exit(1, 3, 10))
    assert {process.pid for process in table.alive()} == {1, 2, 3, 4}
    table.exit(Exit(1, 3, 99))
    assert len(table) == 3


def test_unknown_process_is_entered_as_a_tree_of_its_own():
    table = family()
    process = table.get(77, 5)

    assert (process.exe, process.uid, process.tree) == ("", -1, process)


def test_running_processes_join_the_tree_of_their_parent():
    table = ProcessTable()
    table.set_root(1, 10)
    for pid, ppid in ((1, 0), (2, 1), (3, 2)):
        table.seen(Seen(1, pid, 10, ppid, f"/bin/p{pid}", (f"p{pid}",), "/", "c", 0))

    assert table.get(3, 10).tree is table.get(2, 10)
    assert table.get(2, 10).tree is table.get(2, 10)
    assert table.get(3, 10).exe == "/bin/p3"


def test_daemon_that_forks_and_exits_for_ever_costs_no_memory():
    table = family()
    pid = 3
    for number in range(5000):
        child = 100 + number % 50
        table.fork(Fork(1, pid, 10 if pid == 3 else number, child, number + 1))
        if pid != 3:
            table.exit(Exit(1, pid, number))
        pid = child
    assert len(table) <= 6
    assert table.get(pid, 5000).tree is table.get(2, 10)


def test_an_answer_that_comes_after_the_end_enters_nobody():
    from ebpfaudit.events import Connect
    from ebpfaudit.policy.evaluator import Evaluator
    from ebpfaudit.profiles.load import parse_profile

    evaluator = Evaluator(parse_profile('name = "x"', "test"))
    evaluator.evaluate(Fork(1, 10, 5, 11, 6))
    evaluator.evaluate(Exit(2, 11, 6))
    evaluator.evaluate(Connect(3, 11, 6, "x", "ipv4", "tcp", "10.0.0.1", 80, "done", "aborted"))
    assert [process.pid for process in evaluator.processes.alive()] == [10]


def test_children_share_what_is_found_out_about_a_program_until_they_run_another():
    table = family()
    execute(table, 2, 10, "/bin/a", "a", deleted=True)
    table.fork(Fork(1, 2, 10, 5, 10))
    table.fork(Fork(1, 2, 10, 6, 10))
    execute(table, 6, 10, "/bin/b", "b")
    table.get(2, 10).identities.append("found out late")

    assert table.get(5, 10).identities == ["found out late"] and table.get(5, 10).deleted
    assert table.get(6, 10).identities == [] and not table.get(6, 10).deleted
    assert table.get(5, 10).executed is None
    execute(table, 2, 10, "/bin/c", "c")
    assert table.get(5, 10).identities == ["found out late"] and table.get(2, 10).identities == []


def test_marks_are_inherited_and_stay_through_exec():
    table = family()
    table.get(2, 10).marks = (("a", 100),)
    table.fork(Fork(1, 2, 10, 5, 10))
    execute(table, 5, 10, "/bin/b", "b")
    table.get(2, 10).marks = ()

    assert table.get(5, 10).marks == (("a", 100),)


def test_lineage_is_what_ancestors_ran_and_what_it_ran_itself():
    table = ProcessTable(lambda process: {"/bin/a": 1, "/bin/b": 2, "/bin/c": 4}.get(process.exe, 0))
    table.set_root(1, 10)
    execute(table, 1, 10, "/bin/a", "a")
    table.fork(Fork(1, 1, 10, 2, 10))
    assert table.get(2, 10).lineage == 1
    execute(table, 2, 10, "/bin/b", "b")
    execute(table, 2, 10, "nothing", error="ENOENT")
    assert table.get(2, 10).lineage == 1
    execute(table, 2, 10, "/bin/c", "c")
    assert table.get(2, 10).lineage == 3
    table.fork(Fork(1, 2, 10, 3, 10))
    assert (table.get(3, 10).lineage, table.get(1, 10).lineage) == (7, 0)


def test_the_latest_ended_processes_are_kept_if_asked_for():
    table = ProcessTable(keep_departed=True)
    for pid in range(2, 2 + 2 * MAX_DEPARTED):
        table.get(pid, 10)
        table.exit(Exit(1, pid, 10))

    assert table.departed == MAX_DEPARTED and len(table) == 0
    assert table.find(1 + 2 * MAX_DEPARTED, 10) is not None and table.find(2, 10) is None
    assert ProcessTable().find(2, 10) is None
