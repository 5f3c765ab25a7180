use super::*;
use proptest::prelude::*;

fn mount(root: &str, point: &str) -> CgroupMount {
    CgroupMount { root: root.into(), point: point.into(), v1_controllers: None }
}

#[test]
fn a_group_is_found_below_the_mount_that_shows_it() {
    let at = |group: &str, root: &str| group_directory(Path::new(group), &mount(root, "/cg"));
    assert_eq!(at("/", "/"), Some("/cg".into()));
    assert_eq!(at("/a/b", "/"), Some("/cg/a/b".into()));
    assert_eq!(at("/a/b", "/a"), Some("/cg/b".into()));
    assert_eq!(at("/ab", "/a"), None);
    assert_eq!(at("/../other", "/"), None, "outside the cgroup namespace");
    assert_eq!(at("/../other", "/.."), Some("/cg/other".into()), "mounted from outside it");
}

#[test]
fn both_units_of_throttled_time_are_read() {
    let expected = CpuStat {
        nr_periods: 31,
        nr_throttled: 30,
        throttled_time: Duration::from_micros(2_968_001),
    };
    let v1 = "nr_periods 31\nnr_throttled 30\nthrottled_time 2968001000\nnr_bursts 0\n";
    let v2 = "usage_usec 9\nnr_periods 31\nnr_throttled 30\nthrottled_usec 2968001\n";
    assert_eq!(cpu_stat(v1), Some(expected));
    assert_eq!(cpu_stat(v2), Some(expected));
    assert_eq!(cpu_stat("usage_usec 9\n"), None);
}

#[test]
fn limits_and_threads_are_read() {
    assert_eq!(cpu_max("max 100000\n"), Some((None, 100_000)));
    assert_eq!(cpu_max("20000 100000\n"), Some((Some(20_000), 100_000)));
    assert_eq!(cpu_max("20000"), None);
    assert_eq!(thread_ids("12\n0\nx\n13\n"), [12, 0, 13]);
}

proptest! {
    #[test]
    fn no_text_makes_a_reader_panic(text in "[\\PC\\n\\\\]{0,200}", root in "[/.a\\PC]{0,9}") {
        let _ = group_directory(Path::new(&text), &mount(&root, "/cg"));
        let _ = (cpu_stat(&text), cpu_max(&text), thread_ids(&text));
    }
}

#[test]
fn a_mount_without_a_root_leads_nowhere_else() {
    let broken = mount("", "/sys/fs/cgroup/cpu");
    assert_eq!(group_directory(Path::new("/etc"), &broken), None);
}
