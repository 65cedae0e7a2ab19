/* Every record that crosses from the probes to Python, and nothing else.
 *
 * Read by bcc and by any C compiler; ebpfaudit/kernel/layout.py mirrors it and tests/layout checks the two
 * against each other. All records begin with struct record_header. Integers are in host byte order,
 * addresses in network order (IPv4 as ::ffff:a.b.c.d), times are CLOCK_MONOTONIC nanoseconds except
 * start_ns, which counts from boot (task_struct.start_boottime). Text is not terminated unless it says so.
 */
#ifndef EBPFAUDIT_EVENTS_H
#define EBPFAUDIT_EVENTS_H

#include <linux/types.h>

#define COMM_MAX 16
#define ARGV_MAX 65536      /* bytes of the argument block that are copied */
#define PATH_BYTES_MAX 4096 /* bytes of each path, or of its components leaf first */
#define NAME_BYTES_MAX 256
#define UNIX_PATH_MAX 108

enum record_kind {
	RECORD_FORK = 1,
	RECORD_EXEC,
	RECORD_EXEC_FAILED,
	RECORD_EXIT,
	RECORD_CONNECT,
	RECORD_CONNECT_DONE,
	RECORD_CONNECT_UNIX,
	RECORD_CGROUP_MOVE,
	RECORD_GPU,
};

enum decision {
	DECISION_NONE, /* no section was in force */
	DECISION_ALLOW,
	DECISION_DENY,
	DECISION_KILL,
};

struct record_header {
	__u32 kind;
	__u32 episode; /* number of the episode, 0 if untagged */
	__u64 ts_ns;
	__u64 start_ns; /* of the thread group's leader */
	__u32 pid;      /* thread group */
	__u32 uid;
	char comm[COMM_MAX]; /* of the acting thread, zero-padded */
};

struct fork_record {
	struct record_header header; /* the parent's */
	__u64 child_start_ns;
	__u32 child_pid;
	__u32 reserved;
};

#define EXEC_SCRIPT 1   /* the kernel chose an interpreter for a #! line */
#define EXEC_DELETED 2  /* the executable has no link left */
#define EXEC_DETACHED 4 /* it lies on an internal mount: a memory file */
#define EXEC_EXE_TRUNCATED 8
#define EXEC_CWD_TRUNCATED 16
#define EXEC_ARGV_UNREADABLE 32

/* data: exe components (leaf first, each zero-terminated), cwd components (same), filename, argv block */
struct exec_record {
	struct record_header header;
	__u64 inode;
	__u32 device; /* kernel form: major << 20 | minor */
	__u32 parent_pid;
	__u32 flags;
	__u32 decision;
	__u32 exe_bytes;
	__u32 cwd_bytes;
	__u32 filename_bytes;   /* with its terminating zero */
	__u32 argv_bytes;       /* copied */
	__u64 argv_total;       /* in the process */
	__u8 stdio_address[16]; /* of the peer, where descriptor 0, 1 or 2 is an internet socket */
	__u16 stdio_port;
	__u8 stdio_family; /* of that socket: 4 or 6; 0 if there is none */
	__u8 reserved[5];
};

/* followed by the name, of which no more is sent than is used */
struct exec_failed_record {
	struct record_header header;
	__s32 error;          /* errno, positive */
	__u32 filename_bytes; /* with its terminating zero */
};

struct exit_record {
	struct record_header header;
	__u32 status; /* as wait(2) gives it: code << 8 | signal */
	__u32 reserved;
};

/* RECORD_CONNECT before the act; RECORD_CONNECT_DONE (the process that began it) when TCP has an answer,
 * or when the system call failed before anything was sent. */
struct connect_record {
	struct record_header header;
	__u8 address[16];
	__u16 port;
	__u8 family;   /* as the address was given: 4 or 6; 0 if only the error is known */
	__u8 protocol; /* IPPROTO_* */
	__u8 decision;
	__u8 reserved[3];
	__s32 error; /* errno of the answer, 0 for success; RECORD_CONNECT_DONE only */
	__u32 thread;
};

struct connect_unix_record {
	struct record_header header;
	__u8 type; /* SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET; 0 if not known */
	__u8 decision;
	__u16 path_bytes;
	__u32 thread;
	char path[UNIX_PATH_MAX]; /* "\0name" if abstract */
	__u8 reserved[4];
};

struct cgroup_move_record {
	struct record_header header; /* of the process that was moved */
	__u64 cgroup_id;
	__u32 by_pid;
	__u32 inside;  /* the new cgroup is the episode's */
	__u32 adopted; /* the process got its tag by this move */
	__u32 path_bytes;
	char path[NAME_BYTES_MAX];
};

/* What an ioctl of a GPU driver is about. Python's names for them: ebpfaudit/gpu/table.py, in this order. */
enum gpu_kind {
	GPU_UNKNOWN,
	GPU_OPEN,
	GPU_ENUMERATE,
	GPU_CONTEXT,
	GPU_CHANNEL,
	GPU_ALLOC,
	GPU_SUBMIT,
	GPU_ADMIN,
	GPU_OTHER,
	GPU_KINDS
};

/* Which number of an ioctl names it. */
enum gpu_match {
	GPU_MATCH_NR,      /* _IOC_NR(cmd) */
	GPU_MATCH_TYPE_NR, /* _IOC_TYPE and _IOC_NR: the low 16 bits of cmd */
	GPU_MATCH_COMMAND, /* cmd */
	GPU_MATCH_CLASS,   /* NVIDIA: class of the object to be made */
	GPU_MATCH_CONTROL, /* NVIDIA: number of the control call */
};

/* First of each (process, device, kind), every context, every refused open. */
struct gpu_record {
	struct record_header header;
	__u64 bytes;   /* that were asked for, if this is about memory */
	__u32 command; /* the number that names it: see `match` */
	__u32 status;  /* the driver's own answer, in its argument; 0 is success */
	__s32 error;   /* errno, positive; 0 for success; of an open: not known */
	__u16 device;  /* index: see struct gpu_device in gpu.bpf.c */
	__u8 kind;     /* enum gpu_kind */
	__u8 match;    /* enum gpu_match */
	__u8 uuid[16]; /* of the GPU, where `has_uuid` */
	__u8 has_uuid;
	__u8 driver;
	__u8 decision;
	__u8 reserved[5];
};

#endif
