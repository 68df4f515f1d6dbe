// SPDX-License-Identifier: GPL-2.0 OR Apache-2.0
/*
 * Who ran: what the scheduler keeps of each task, told in one pass, and the last word on each task that went.
 *
 *   tasks_all, tasks_changed   iterators over all threads that write a record for each, or for each whose figures
 *                              changed since they were last written
 *   task_freed                 runs when a task is freed: nothing runs under its name any more, so its run time is
 *                              final. (At sched_process_exit it still is running, and what it used since the last
 *                              tick isn't counted yet.)
 *   task_exits                 keeps what was known when a task began to end, until it is freed: should task_freed
 *                              not be run, as happens where a task of some sandboxes is interrupted by the freeing of
 *                              others, the agent finds it there
 *   cgroup_made                remembers paths of groups, so that tasks nobody saw alive can be told by theirs
 *   task_switched              with COUNTERS only: hardware counters per task
 *
 * No program keeps anything but in the maps below, all of which have a bound. Nothing is pinned: all of it goes
 * when the agent's descriptors go, whatever ends the agent.
 *
 * Records are in record.h.
 */
#include "vmlinux.h"
#include "record.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* What was last told of the thread with this id. Two threads whose ids differ by a multiple of the size share a
 * place and are both told each time, which costs time but loses nothing. */
#define TOLD 65536

struct told {
	__u64 mark;
	__u64 css_set;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, TOLD);
	__type(key, __u32);
	__type(value, struct told);
} told SEC(".maps");

/* What didn't fit into the ring: number and run time of ended tasks, number of groups. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} lost SEC(".maps");

/* Read at each sample; the agent sets the size. */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 21);
} events SEC(".maps");

/* Tasks that began to end and were not freed yet. One that finds no room is freed all the same. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct life);
	__type(value, struct exiting);
} exits SEC(".maps");

/* By how much the clock that records tell is ahead of that by which a CPU counts run time, less what a task runs after
 * it began to end; as the last ends showed. CPUs beyond share a place with others, which makes it worthless to them. */
#define AHEAD 1024
#define SECOND 1000000000LL
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, AHEAD);
	__type(key, __u32);
	__type(value, __u64);
} ahead SEC(".maps");

#ifdef COUNTERS
struct counted {
	__u64 cycles;
	__u64 instructions;
	__u64 misses;
	/* the task's run time up to which these were counted */
	__u64 run_ns;
};

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct counted);
} per_task SEC(".maps");

/* One event per CPU, opened by the agent; the agent sets the size. */
#define EVENTS(name)                                  \
	struct {                                      \
		__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY); \
		__uint(key_size, sizeof(__u32));      \
		__uint(value_size, sizeof(__u32));    \
		__uint(max_entries, 1);               \
	} name SEC(".maps")

EVENTS(cycles);
EVENTS(instructions);
EVENTS(misses);

/* Where this CPU's counters stood at its last switch. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counted);
} stood SEC(".maps");
#endif

static __always_inline void count_lost(__u32 what, __u64 by)
{
	__u64 *sum = bpf_map_lookup_elem(&lost, &what);

	if (sum)
		__sync_fetch_and_add(sum, by);
}

static __always_inline __u32 cpu_of(struct task_struct *t)
{
	if (field_exists(t->thread_info.cpu))
		return t->thread_info.cpu;
	return ((struct task_struct___5_15 *)t)->cpu;
}

static __always_inline __u64 at_least_zero(__s64 n)
{
	return n > 0 ? n : 0;
}

/* File, anonymous and shared pages; the third kind is swap. */
static __always_inline __u64 resident(struct task_struct *t)
{
	struct mm_struct *mm = t->mm;
	struct mm_struct___6_1 *old = (void *)mm;

	if (!mm)
		return 0;
	if (field_exists(old->rss_stat.count)) {
		__s64 count[4] = {};

		/* verifiers of that time follow no array of a typedef */
		bpf_probe_read_kernel(count, sizeof(count), &old->rss_stat.count);
		return at_least_zero(count[0]) + at_least_zero(count[1]) + at_least_zero(count[3]);
	}
	return at_least_zero(mm->rss_stat[0].count) + at_least_zero(mm->rss_stat[1].count) +
	       at_least_zero(mm->rss_stat[3].count);
}

static __always_inline void fill_thread(struct thread_record *r, struct task_struct *t, __u32 kind)
{
	r->kind = kind;
	r->cpu = cpu_of(t);
	r->task = (__u64)t;
	r->start_ns = t->start_boottime;
	r->run_ns = t->se.sum_exec_runtime;
	r->tid = t->pid;
	r->tgid = t->tgid;
}

#ifdef COUNTERS
static __always_inline void fill_counted(struct counted_record *r, struct task_struct *t)
{
	struct counted *c = bpf_task_storage_get(&per_task, t, NULL, 0);

	r->cycles = c ? c->cycles : 0;
	r->instructions = c ? c->instructions : 0;
	r->misses = c ? c->misses : 0;
	r->run_ns = c ? c->run_ns : 0;
}
#else
#define fill_counted(r, t)
#endif

static __always_inline void fill_process(struct process_record *r, struct task_struct *t)
{
	struct task_struct *parent = t->real_parent;
	struct css_set *set = t->cgroups;
	struct cgroup_subsys_state **memory;
	struct cgroup_subsys_state *css = NULL;
	struct cgroup *group;

	/* when a task is freed its parent may have been replaced by another task: never by an older one */
	r->ppid = parent->start_boottime <= t->start_boottime ? parent->tgid : 0;
	r->uid = t->cred->euid.val;
	r->threads = t->signal->nr_threads;
	r->flags = t->flags & PF_KTHREAD ? RECORD_KERNEL : 0;
	r->rss_pages = resident(t);
	r->css_set = (__u64)set;
	r->group_v2 = set->dfl_cgrp->kn->id;
	memory = (void *)&set->subsys[0];
	bpf_probe_read_kernel(&css, sizeof(css), memory + enum_value(enum cgroup_subsys_id, memory_cgrp_id));
	group = NULL;
	if (css)
		bpf_probe_read_kernel(&group, sizeof(group), &css->cgroup);
	r->group_v1 = 0;
	r->hierarchy_v1 = 0;
	if (group) {
		struct cgroup_root *root = NULL;
		struct kernfs_node *node = NULL;

		bpf_probe_read_kernel(&root, sizeof(root), &group->root);
		bpf_probe_read_kernel(&node, sizeof(node), &group->kn);
		bpf_probe_read_kernel(&r->hierarchy_v1, sizeof(r->hierarchy_v1), &root->hierarchy_id);
		bpf_probe_read_kernel(&r->group_v1, sizeof(r->group_v1), &node->id);
	}
	r->reserved = 0;
	__builtin_memcpy(r->comm, t->comm, TASK_COMM_LEN);
}

/* With the groups it is in: changes whenever something changes that a record tells, except memory and parent, which
 * change without the task. */
static __always_inline __u64 mark(struct task_struct *t)
{
	return t->se.sum_exec_runtime ^ (t->start_boottime * 0x9e3779b97f4a7c15ULL);
}

static __always_inline int tell(struct bpf_iter__task *ctx, int all)
{
	struct task_struct *t = ctx->task;
	struct alive r;
	struct told *last;
	__u64 now, set;
	__u32 place;
	long full;

	if (!t)
		return 0;
	place = t->pid & (TOLD - 1);
	now = mark(t);
	set = (__u64)t->cgroups;
	last = bpf_map_lookup_elem(&told, &place);
	if (!last || (!all && last->mark == now && last->css_set == set))
		return 0;
	fill_thread(&r.thread, t, RECORD_ALIVE);
	fill_counted(&r.counted, t);
	if (t->pid == t->tgid) {
		fill_process(&r.process, t);
		full = bpf_seq_write(ctx->meta->seq, &r, sizeof(r));
	} else {
		full = bpf_seq_write(ctx->meta->seq, &r, sizeof(r) - sizeof(r.process));
	}
	/* if there was no room the kernel asks again once the agent has read */
	if (!full) {
		last->mark = now;
		last->css_set = set;
	}
	return 0;
}

SEC("iter/task")
int tasks_all(struct bpf_iter__task *ctx)
{
	return tell(ctx, 1);
}

SEC("iter/task")
int tasks_changed(struct bpf_iter__task *ctx)
{
	return tell(ctx, 0);
}

static __always_inline struct life life_of(struct task_struct *t)
{
	return (struct life){ .task = (__u64)t, .start_ns = t->start_boottime };
}

SEC("tp_btf/sched_process_exit")
int task_exits(unsigned long long *ctx)
{
	struct task_struct *t = (void *)ctx[0];
	struct life life = life_of(t);
	struct exiting r;

	fill_thread(&r.thread, t, RECORD_FREED);
	fill_process(&r.process, t);
	r.at_ns = bpf_ktime_get_ns();
	r.since_ns = r.at_ns - t->se.exec_start;
	bpf_map_update_elem(&exits, &life, &r, 0);
	return 0;
}

static __always_inline void calibrate(struct task_struct *t, struct life *life)
{
	struct exiting *e = bpf_map_lookup_elem(&exits, life);
	__u32 cpu = cpu_of(t) & (AHEAD - 1);
	__u64 *ahead_by = bpf_map_lookup_elem(&ahead, &cpu);
	__u64 now;
	__s64 off;

	/* on another CPU it ran by another clock */
	if (!e || !ahead_by || e->thread.cpu != cpu_of(t))
		return;
	now = e->since_ns - (t->se.sum_exec_runtime - e->thread.run_ns);
	off = now - *ahead_by;
	/* what tasks run at their end differs: the mean of some is meant */
	*ahead_by = off < SECOND && off > -SECOND ? *ahead_by + (off >> 3) : now;
}

SEC("tp_btf/sched_process_free")
int task_freed(unsigned long long *ctx)
{
	struct task_struct *t = (void *)ctx[0];
	struct life life = life_of(t);
	struct alive *r;

	calibrate(t, &life);
	bpf_map_delete_elem(&exits, &life);
	r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);
	if (!r) {
		count_lost(LOST_TASKS, 1);
		count_lost(LOST_NS, t->se.sum_exec_runtime);
		return 0;
	}
	fill_thread(&r->thread, t, RECORD_FREED);
	fill_counted(&r->counted, t);
	fill_process(&r->process, t);
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int cgroup_made(unsigned long long *ctx)
{
	struct cgroup *group = (void *)ctx[0];
	const char *path = (void *)ctx[1];
	struct group_record *r = bpf_ringbuf_reserve(&events, sizeof(*r), 0);

	if (!r) {
		count_lost(LOST_GROUPS, 1);
		return 0;
	}
	r->kind = RECORD_GROUP;
	r->hierarchy = group->root->hierarchy_id;
	r->id = group->kn->id;
	r->path[0] = 0;
	bpf_probe_read_kernel_str(r->path, sizeof(r->path), path);
	bpf_ringbuf_submit(r, BPF_RB_NO_WAKEUP);
	return 0;
}

#ifdef COUNTERS
static __always_inline __u64 read(void *map)
{
	struct bpf_perf_event_value v = {};

	if (bpf_perf_event_read_value(map, BPF_F_CURRENT_CPU, &v, sizeof(v)))
		return 0;
	/* shared with others, an event counts only part of the time */
	if (v.running && v.running < v.enabled)
		return v.counter / (v.running >> 10 ? v.running >> 10 : 1) * (v.enabled >> 10);
	return v.counter;
}

SEC("tp_btf/sched_switch")
int task_switched(unsigned long long *ctx)
{
	struct task_struct *t = (void *)ctx[1];
	struct counted *was, *c;
	__u64 cyc, ins, mis;
	__u32 zero = 0;

	was = bpf_map_lookup_elem(&stood, &zero);
	if (!was)
		return 0;
	cyc = read(&cycles);
	ins = read(&instructions);
	mis = read(&misses);
	/* the idle task has no place of its own to keep figures in, and needs none */
	if (t->pid && was->cycles) {
		c = bpf_task_storage_get(&per_task, t, NULL, BPF_LOCAL_STORAGE_GET_F_CREATE);
		if (c) {
			c->cycles += at_least_zero(cyc - was->cycles);
			c->instructions += at_least_zero(ins - was->instructions);
			c->misses += at_least_zero(mis - was->misses);
			c->run_ns = t->se.sum_exec_runtime;
		}
	}
	was->cycles = cyc;
	was->instructions = ins;
	was->misses = mis;
	return 0;
}
#endif
