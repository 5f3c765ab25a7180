//! The CPU lever against the real kernel, on whichever cgroup version has the cpu controller here.
//!
//! The same binary runs inside a small Linux guest with cgroup v2: see `cgroup_guest.rs`.

mod machine;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use landfall_qemu::cgroup::{
    CgroupError, CgroupVersion, CpuLever, Placement, Quota, find_cpu_lever, scheduler_tick,
};
use landfall_qemu::vcpus::read_vcpu_counters;
use landfall_testguest::{agrees_once_in_three, claim};
use machine::{TestGroup, Victim, children, get, put, shares, turn};

const WHILE: Duration = Duration::from_millis(1500);

const fn ms(quota: u64, period: u64) -> Quota {
    Quota::new(Duration::from_millis(quota), Duration::from_millis(period))
}

/// Plays a part for another test, in a process of its own.
#[test]
#[ignore = "not a test: other tests run it in a process of its own"]
fn play_a_role() {
    machine::play_role();
}

#[test]
fn a_held_thread_gets_its_share_and_the_others_of_its_process_are_left_alone() {
    let Some(_turn) = turn() else { return };
    agrees_once_in_three(|| {
        let group = TestGroup::new();
        let victim = Victim::start(2, &group);
        let before = shares(&victim, WHILE);

        let mut lever = find_cpu_lever(victim.pid, &victim.tids[..1]).unwrap();
        assert_eq!(lever.threads()[0].placement, Placement::Created);
        assert_eq!(lever.cgroup_version() == CgroupVersion::V2, group.v2);
        let effective = lever.hold_vcpu(0, Some(ms(20, 100))).unwrap();
        assert_eq!(effective.quota, Some(ms(20, 100)));
        let held = shares(&victim, WHILE);
        // No load on the machine makes a share larger.
        assert!(held[0] < 0.3, "{held:?}");
        assert_eq!(group.threads(lever.threads()[0].group_path()), victim.tids[..1]);
        let stats = lever.vcpu_stats(0).unwrap();
        assert!(stats.nr_periods >= stats.nr_throttled, "{stats:?}");
        lever.hold_vcpu(0, None).unwrap();
        let free = shares(&victim, WHILE);

        assert!(lever.release_all().is_empty());
        let later = lever.vcpu_stats(0).unwrap();
        assert!(
            later.throttled_time >= stats.throttled_time && later.nr_periods >= stats.nr_periods,
            "{later:?}"
        );
        let figures = format!(
            "unheld {before:.3?}, first held to 0.2 {held:.3?}, freed {free:.3?}; {stats:?}"
        );
        println!("{figures}");
        let measured = |holds, what| claim(holds, format!("{what}: {figures}"));
        // The less CPU other load on the host leaves the thread, the longer its quota lasts.
        let had = before[0].min(free[0]);
        let gap = WHILE.mul_f64((1.0 - 0.2 / had).max(0.0));
        Some(
            measured(held[0] > 0.1, "less than its share")
                .and(measured(held[1] > before[1] * 0.6, "the sibling was held"))
                .and(measured(free[0] > before[0] * 0.6, "it stayed held"))
                .and(measured(stats.nr_throttled >= 5, "the kernel counts no periods"))
                .and(measured(stats.throttled_time > gap / 2, "the kernel counts no time")),
        )
    });
}

#[test]
fn release_puts_everything_back() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(3, &group);
    let before = group.snapshot();

    let mut lever = find_cpu_lever(victim.pid, &victim.tids[..2]).unwrap();
    assert!(lever.release_all().is_empty());
    assert_eq!(group.snapshot(), before, "finding the lever and an idle release change nothing");
    lever.hold_vcpu(0, None).unwrap();
    assert_eq!(group.snapshot(), before, "no hold was asked for");

    for _ in 0..2 {
        lever.hold_vcpu(0, Some(ms(10, 20))).unwrap();
        lever.hold_vcpu(1, Some(ms(5, 50))).unwrap();
        assert_ne!(group.snapshot(), before);
        assert!(lever.release_all().is_empty());
        assert_eq!(group.snapshot(), before);
        assert!(lever.release_all().is_empty(), "twice is no error");
    }

    // A thread that a held thread starts is born into its group.
    lever.hold_vcpu(1, Some(ms(10, 20))).unwrap();
    let held = lever.threads()[1].group_path();
    put(&group.threads_file(held), &victim.tids[2].to_string());
    drop(lever);
    assert_eq!(group.snapshot(), before, "a lever that is dropped lets go, of everything");
}

#[test]
fn a_group_used_in_place_is_never_loosened_and_gets_its_limit_back() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(2, &group);
    let vcpu = group.threads_child("vcpu0");
    put(&group.threads_file(&vcpu), &victim.tids[0].to_string());
    group.limit(&vcpu, 30_000, 60_000);
    let burst = group.burst_file(&vcpu);
    let has_bursts = burst.exists();
    if has_bursts {
        put(&burst, "20000");
    }
    let before = group.snapshot();

    // The second thread is in the parent, so both ways of holding mix.
    let mut lever = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    assert_eq!(lever.threads()[0].placement, Placement::InPlace);
    assert_eq!(lever.threads()[0].group_path(), vcpu);
    assert_eq!(lever.threads()[1].placement, Placement::Created);

    let loose = lever.hold_vcpu(0, Some(ms(90, 100))).unwrap();
    assert_eq!((loose.quota, loose.found_is_tighter), (Some(ms(30, 60)), true));
    assert_eq!(group.limit_of(&vcpu), (30_000, 60_000));

    let tight = lever.hold_vcpu(0, Some(ms(10, 100))).unwrap();
    assert_eq!((tight.quota, tight.found_is_tighter), (Some(ms(10, 100)), false));
    assert_eq!(group.limit_of(&vcpu), (10_000, 100_000));
    if has_bursts {
        assert_eq!(get(&burst), "0\n", "what was saved up would loosen the hold");
    }
    lever.hold_vcpu(0, Some(ms(2, 20))).unwrap();
    assert_eq!(group.limit_of(&vcpu), (2_000, 20_000));

    lever.hold_vcpu(0, None).unwrap();
    assert_eq!(group.limit_of(&vcpu), (30_000, 60_000));
    lever.hold_vcpu(0, Some(ms(10, 20))).unwrap();
    lever.hold_vcpu(1, Some(ms(10, 20))).unwrap();
    assert!(lever.release_all().is_empty());
    assert_eq!(group.snapshot(), before);
}

#[test]
fn a_limit_that_another_program_sets_meanwhile_stays() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(1, &group);
    let vcpu = group.threads_child("vcpu0");
    put(&group.threads_file(&vcpu), &victim.tids[0].to_string());
    group.limit(&vcpu, 30_000, 60_000);
    let folder = tempfile::tempdir().unwrap();

    // By this process: what was set meanwhile is the limit to go back to.
    let mut lever = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    lever.keep_journal(&folder.path().join("limits")).unwrap();
    let steps = lever.undo_steps();
    lever.hold_vcpu(0, Some(ms(10, 100))).unwrap();
    group.limit(&vcpu, 25_000, 50_000);
    lever.hold_vcpu(0, Some(ms(5, 100))).unwrap();
    assert_eq!(group.limit_of(&vcpu), (5_000, 100_000));
    assert!(lever.release_all().is_empty());
    assert_eq!(group.limit_of(&vcpu), (25_000, 50_000));

    // By another process, from the steps and the file alone.
    lever.hold_vcpu(0, Some(ms(10, 100))).unwrap();
    lever.hold_vcpu(0, Some(ms(5, 20))).unwrap();
    steps.iter().for_each(|step| step.apply().unwrap());
    assert_eq!(group.limit_of(&vcpu), (25_000, 50_000));
    group.limit(&vcpu, 40_000, 80_000);
    steps.iter().for_each(|step| step.apply().unwrap());
    assert_eq!(group.limit_of(&vcpu), (40_000, 80_000), "set by another program since");
}

#[test]
fn a_refused_limit_is_reported_and_the_old_one_stays() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(1, &group);
    group.limit(&group.path, 50_000, 100_000);
    let before = group.snapshot();
    let mut lever = find_cpu_lever(victim.pid, &[victim.pid]).unwrap();
    lever.hold_vcpu(0, Some(ms(20, 50))).unwrap();
    let held = lever.threads()[0].group_path().to_owned();

    for wrong in [
        Quota::new(Duration::from_micros(999), Duration::from_millis(10)),
        Quota::new(Duration::from_millis(1), Duration::from_micros(999)),
        ms(500, 1001),
        ms(u64::MAX / 1000, 100),
    ] {
        let error = lever.hold_vcpu(0, Some(wrong)).unwrap_err();
        assert!(matches!(error, CgroupError::OutOfRange { .. }), "{error}");
        assert_eq!(group.limit_of(&held), (20_000, 50_000));
    }
    // A longer and a shorter period than the one in force are written in different orders.
    for above in [ms(80, 100), ms(16, 20)] {
        match lever.hold_vcpu(0, Some(above)) {
            Err(error @ CgroupError::AboveParent { .. }) => {
                assert!(error.to_string().contains("50ms per 100ms"), "{error}");
                assert_eq!(group.limit_of(&held), (20_000, 50_000));
            }
            // v2 accepts it, and the parent's limit applies all the same.
            Ok(effective) => assert!(group.v2 && effective.quota == Some(above)),
            Err(error) => panic!("{error}"),
        }
    }
    assert!(matches!(lever.hold_vcpu(1, None), Err(CgroupError::NoSuchVcpu { vcpu: 1, count: 1 })));
    assert!(lever.release_all().is_empty());
    assert_eq!(group.snapshot(), before);
}

#[test]
fn a_dead_process_is_released_without_error() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let mut victim = Victim::start(2, &group);
    let mut lever = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    lever.hold_vcpu(0, Some(ms(1, 20))).unwrap();
    victim.kill();

    assert!(matches!(lever.vcpu_stats(0), Err(CgroupError::NoSuchThread { .. })));
    let error = lever.hold_vcpu(1, Some(ms(1, 20))).unwrap_err();
    assert!(matches!(error, CgroupError::NoSuchThread { .. }), "{error}");
    let failures = lever.release_all();
    assert!(failures.is_empty(), "{failures:?}");
    assert!(children(&group.path).is_empty());
}

#[test]
fn vcpus_that_share_a_thread_share_the_hold() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(2, &group);
    let (one, two) = (victim.tids[0], victim.tids[1]);
    let mut lever = find_cpu_lever(victim.pid, &[one, two, one, one]).unwrap();
    assert_eq!(lever.vcpu_count(), 4);
    assert_eq!(lever.threads().len(), 2);
    assert_eq!(lever.threads()[0].vcpus, [0, 2, 3]);

    lever.hold_vcpu(3, Some(ms(10, 20))).unwrap();
    lever.hold_vcpu(0, Some(ms(5, 20))).unwrap();
    assert_eq!(children(&group.path), [lever.threads()[0].group_path()]);
    assert_eq!(group.limit_of(lever.threads()[0].group_path()), (5_000, 20_000));
    assert!(lever.release_all().is_empty());
}

#[test]
fn another_process_can_undo_from_the_record_alone() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(3, &group);
    let vcpu = group.threads_child("vcpu0");
    put(&group.threads_file(&vcpu), &victim.tids[0].to_string());
    group.limit(&vcpu, 30_000, 60_000);
    let before = group.snapshot();

    let mut lever = find_cpu_lever(victim.pid, &victim.tids[..2]).unwrap();
    let record = lever.undo_steps();
    assert_eq!(machine::undo_elsewhere(&record), "[]", "nothing was done yet, nothing to undo");
    assert_eq!(group.snapshot(), before);

    lever.hold_vcpu(0, Some(ms(1, 100))).unwrap();
    lever.hold_vcpu(1, Some(ms(1, 100))).unwrap();
    std::mem::forget(lever); // as a kill -9 would
    assert_eq!(machine::undo_elsewhere(&record), "[]");
    assert_eq!(group.snapshot(), before);
}

#[test]
fn a_pinned_thread_stays_pinned_while_it_is_held_and_afterwards() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(2, &group);
    let [pinned, free] = [victim.tids[0], victim.tids[1]].map(rustix::thread::Pid::from_raw);
    let cpus = |thread| rustix::thread::sched_getaffinity(thread).unwrap();
    let all = cpus(free);
    let mut one = rustix::thread::CpuSet::new();
    one.set((0..rustix::thread::CpuSet::MAX_CPU).find(|cpu| all.is_set(*cpu)).unwrap());
    rustix::thread::sched_setaffinity(pinned, &one).unwrap();
    let mut lever = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    let quota = Quota::new(Duration::from_millis(50), Duration::from_millis(100));
    for vcpu in [0, 1] {
        lever.hold_vcpu(vcpu, Some(quota)).unwrap();
    }
    assert_eq!([cpus(pinned), cpus(free)], [one, all], "held");
    assert!(lever.release_all().is_empty());
    assert_eq!([cpus(pinned), cpus(free)], [one, all], "released");
}

#[test]
fn a_group_left_behind_is_seen_and_cleared_away() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(2, &group);
    let before = group.snapshot();
    let mut ghost = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    ghost.hold_vcpu(1, Some(ms(1, 100))).unwrap();
    std::mem::forget(ghost);

    // As vCPU 0 this time, so that the group has another name.
    for tids in [vec![victim.tids[1]], victim.tids.clone()] {
        let mut lever = find_cpu_lever(victim.pid, &tids).unwrap();
        let thread = lever.threads().last().unwrap();
        assert!(thread.left_behind);
        assert_eq!(thread.group_path().parent(), Some(group.path.as_path()));
        lever.hold_vcpu(0, Some(ms(10, 20))).unwrap();
        if tids.len() == 2 {
            assert!(lever.release_all().is_empty());
        } else {
            std::mem::forget(lever);
        }
    }
    let left: Vec<_> = children(&group.path);
    assert_eq!(left.len(), usize::from(!left.is_empty()), "at most the first, empty one: {left:?}");
    left.iter().for_each(|empty| fs::remove_dir(empty).unwrap());
    if group.v2 {
        put(&group.path.join("cgroup.subtree_control"), "-cpu"); // the ghost's, whose undo steps are lost
    }
    assert_eq!(group.snapshot(), before);
}

#[test]
fn a_process_that_got_a_dead_ones_ids_is_left_where_it_is() {
    let Some(_turn) = turn() else { return };
    let last_pid = Path::new("/proc/sys/kernel/ns_last_pid");
    if !last_pid.exists() {
        println!("skipped: this kernel does not let a process choose the next process id");
        return;
    }
    let (group, elsewhere) = (TestGroup::new(), TestGroup::new());
    for _ in 0..20 {
        let mut first = Victim::start(1, &group);
        let ids = [first.pid];
        let mut lever = find_cpu_lever(first.pid, &ids).unwrap();
        lever.hold_vcpu(0, Some(ms(10, 20))).unwrap();
        let mut late = find_cpu_lever(first.pid, &ids).unwrap();
        first.kill();
        std::thread::sleep(Duration::from_millis(20)); // start times are counted in 10 ms
        put(last_pid, &(ids[0] - 1).to_string());
        let second = Victim::start(1, &elsewhere);
        if second.pid != ids[0] {
            continue;
        }
        let before = elsewhere.snapshot();
        assert!(matches!(
            late.hold_vcpu(0, Some(ms(1, 20))),
            Err(CgroupError::NoSuchThread { .. })
        ));
        assert!(lever.undo_steps().iter().all(|step| step.apply().is_ok()));
        assert!(late.release_all().is_empty() && lever.release_all().is_empty());
        assert_eq!(elsewhere.snapshot(), before);
        assert!(children(&group.path).is_empty());
        return;
    }
    println!("skipped: the machine gave the id to others, 20 times");
}

#[test]
fn no_right_to_write_is_known_before_anything_is_changed() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(1, &group);
    let before = group.snapshot();
    let told = machine::find_cpu_lever_as_nobody(victim.pid, victim.tids[0]);
    assert!(told.contains(group.path.to_str().unwrap()), "{told}");
    assert!(told.contains("run landfall as root"), "{told}");
    assert_eq!(group.snapshot(), before);
}

#[test]
fn what_is_no_thread_of_the_process_is_refused() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(1, &group);
    assert!(matches!(find_cpu_lever(victim.pid, &[]), Err(CgroupError::NoThreads { .. })));
    let other = find_cpu_lever(victim.pid, &[std::process::id() as i32]).unwrap_err();
    assert!(matches!(other, CgroupError::NoSuchThread { .. }), "{other}");
    assert!(find_cpu_lever(-1, &[-1]).is_err());
}

#[test]
fn the_scheduler_tick_is_one_that_some_kernel_has() {
    let ticks = [1000, 300, 250, 100].map(|hz| Duration::from_secs(1) / hz);
    assert!(ticks.iter().any(|tick| tick.abs_diff(scheduler_tick()).as_micros() < 50));
}

#[test]
fn holding_again_what_is_held_is_no_gift() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    let victim = Victim::start(1, &group);
    let mut lever = find_cpu_lever(victim.pid, &victim.tids).unwrap();
    lever.hold_vcpu(0, Some(ms(5, 100))).unwrap();
    let (start, before) = (Instant::now(), lever.vcpu_stats(0).unwrap().cpu_time);
    while start.elapsed() < WHILE {
        std::thread::sleep(Duration::from_millis(5));
        lever.hold_vcpu(0, Some(ms(5, 100))).unwrap();
    }
    let share = (lever.vcpu_stats(0).unwrap().cpu_time - before).div_duration_f64(start.elapsed());
    assert!(share < 0.1, "asked for 0.05, got {share:.3}");
    assert!(lever.release_all().is_empty());
}

#[test]
fn v2_says_why_a_group_cannot_hold_single_threads() {
    let Some(_turn) = turn() else { return };
    let group = TestGroup::new();
    if !group.v2 {
        println!("skipped: v1 has no such rules");
        return;
    }
    let victim = Victim::start(1, &group);
    // Whole processes below the group: it cannot become the root of a threaded subtree.
    let below = group.path.join("processes");
    fs::create_dir(&below).unwrap();
    let mut other = Victim::start(1, &group);
    put(&below.join("cgroup.procs"), &other.pid.to_string());
    let error = find_cpu_lever(victim.pid, &victim.tids).unwrap_err();
    assert!(matches!(error, CgroupError::ProcessesBelow { .. }), "{error}");
    assert!(error.to_string().contains("processes below it"), "{error}");

    // Nor can a group use a controller that its parent does not enable for it.
    let error = find_cpu_lever(other.pid, &other.tids).unwrap_err();
    assert!(matches!(error, CgroupError::NoController { .. }), "{error}");
    let command = format!("echo +cpu > {}/cgroup.subtree_control", group.path.display());
    assert!(error.to_string().contains(&command), "{error}");
    other.kill();
}

/// What the threads of many vCPUs cost landfall. A process of 256 threads stands in for a guest of 256 vCPUs,
/// which does not boot on a machine of two cores. Reports; asserts no time.
#[test]
#[ignore = "a report for docs/measurements/looks.md; run it by its name"]
fn the_cost_of_many_vcpus_is_reported() {
    let Some(_turn) = turn() else { return };
    for vcpus in [1, 16, 64, 256] {
        let group = TestGroup::new();
        let victim = Victim::asleep(vcpus, &group);
        let timed = |what: &str, work: &mut dyn FnMut()| {
            let cpu = || {
                let now = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
                Duration::try_from(now).unwrap()
            };
            let (begun, before) = (Instant::now(), cpu());
            work();
            let (wall, cpu) = (begun.elapsed(), cpu() - before);
            println!("{vcpus} vCPUs, {what}: {cpu:.2?} of CPU time, {wall:.2?}");
        };
        timed("counters, no lever", &mut || _ = read_vcpu_counters(&victim.tids, None));
        let mut lever = None;
        timed("find the lever", &mut || {
            lever = Some(find_cpu_lever(victim.pid, &victim.tids).unwrap());
        });
        let mut lever = lever.unwrap();
        let hold = |lever: &mut CpuLever, ms: u64| {
            let quota = Quota::new(Duration::from_millis(ms), Duration::from_millis(100));
            for vcpu in 0..vcpus {
                lever.hold_vcpu(vcpu, Some(quota)).unwrap();
            }
        };
        timed("first hold of all", &mut || hold(&mut lever, 50));
        timed("another hold of all", &mut || hold(&mut lever, 40));
        timed("the same hold again", &mut || hold(&mut lever, 40));
        timed("counters, held", &mut || _ = read_vcpu_counters(&victim.tids, Some(&lever)));
        timed("free all", &mut || {
            for vcpu in 0..vcpus {
                lever.hold_vcpu(vcpu, None).unwrap();
            }
        });
        timed("release and remove all", &mut || assert!(lever.release_all().is_empty()));
    }
}
