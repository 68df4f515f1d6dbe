/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 */
/*
 * What the programs tell the agent. Native byte order, no padding; agent/src/usage/bpf/record.rs reads it.
 * Times are nanoseconds. An id is unique in its hierarchy while the group exists.
 */
#ifndef EBBTIDE_RECORD_H
#define EBBTIDE_RECORD_H

enum {
	RECORD_ALIVE = 1,
	RECORD_FREED = 2,
	RECORD_GROUP = 3,
};

/* flags */
#define RECORD_KERNEL 1

/* places in the map of what was lost */
enum {
	LOST_TASKS,
	LOST_NS,
	LOST_GROUPS,
};

/* a thread */
struct thread_record {
	__u32 kind;
	__u32 cpu; /* where it last ran */
	__u64 task; /* tells lives of threads apart */
	__u64 start_ns; /* since boot, sleep included */
	__u64 run_ns; /* on a CPU, over its life */
	__u32 tid;
	__u32 tgid;
};

/* what hardware counters told of it, up to the run time in run_ns; only with COUNTERS */
struct counted_record {
	__u64 cycles;
	__u64 instructions;
	__u64 misses;
	__u64 run_ns;
};

/* the process that a thread is the first of */
struct process_record {
	__u32 ppid; /* zero if that can't be told */
	__u32 uid; /* effective */
	__u32 threads;
	__u32 flags;
	__u64 rss_pages;
	__u64 css_set; /* with the ids below: which groups it is in */
	__u64 group_v2;
	__u64 group_v1; /* that of the memory controller */
	__u32 hierarchy_v1; /* zero if that is v2 as well */
	__u32 reserved;
	char comm[TASK_COMM_LEN];
};

/* written whole for the first thread of a process and for freed ones, without its last part for other threads */
struct alive {
	struct thread_record thread;
#ifdef COUNTERS
	struct counted_record counted;
#endif
	struct process_record process;
};

/* tells lives of threads apart: an address is used again at once */
struct life {
	__u64 task;
	__u64 start_ns;
};

/* a thread that began to end: its run time is that at the last tick, or when it last got a CPU */
struct exiting {
	struct thread_record thread;
	struct process_record process;
	__u64 at_ns; /* since boot, without sleep */
	__u64 since_ns; /* since that moment, and by how much the clocks of both differ */
};

/* a control group was made */
struct group_record {
	__u32 kind;
	__u32 hierarchy;
	__u64 id;
	char path[256]; /* ends with a zero; cut if longer */
};

#endif
