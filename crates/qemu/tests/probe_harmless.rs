//! A look takes nothing from the host and populates nothing, whatever the guest's memory is made of.
//!
//! The witness is the kernel: what it counts for the QEMU process, and the pool of huge pages.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use landfall_core::units::Bytes;
use landfall_qemu::monitor::QemuMonitor;
use landfall_qemu::probe::probe_guest;
use landfall_qemu::qmp::QmpAddress;
use landfall_testguest::{GuestSpec, PagesPerSecond, Vm, VmBuilder, VmError, Workload, take_turn};

const PATIENCE: Duration = Duration::from_secs(60);

/// How much of QEMU's own memory may come while it answers and runs the guest: what it translates of the
/// guest's code, its buffers. It may give back any amount meanwhile.
const OWN_MEMORY_KIB: u64 = 16 << 10;

/// From this size on a writable mapping is a block of the guest's memory: QEMU has no other as large but the
/// one into which it translates code, which is executable.
const GUEST_BLOCK_KIB: u64 = 200 << 10;

/// What a process has of each kind of memory, and the pool of huge pages, in KiB.
fn memory_in_use(pid: u32) -> BTreeMap<String, u64> {
    let keys = ["RssAnon", "RssFile", "RssShmem", "VmSwap", "HugetlbPages"];
    let of_process = values(&format!("/proc/{pid}/status"), &keys);
    let pool = values("/proc/meminfo", &["HugePages_Free", "HugePages_Rsvd"]);
    of_process.into_iter().chain(pool).collect()
}

/// The numbers behind some keys of a file of the kernel.
fn values(path: &str, keys: &[&str]) -> Vec<(String, u64)> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once(':'));
    lines
        .filter(|(key, _)| keys.contains(key))
        .map(|(key, value)| (key.to_owned(), first_number(value)))
        .collect()
}

fn first_number(value: &str) -> u64 {
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// What is there of each block of the guest's memory, resident, in huge pages or in swap, in KiB.
fn guest_memory_in_use(pid: u32) -> Vec<(String, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut blocks: Vec<(String, u64)> = Vec::new();
    let mut in_block = false;
    let mut mapping = "";
    for line in text.lines() {
        let Some((key, value)) = line.split_once(':').filter(|(key, _)| !key.contains(' ')) else {
            mapping = line;
            continue;
        };
        match key {
            "Size" => {
                let permissions = mapping.split_whitespace().nth(1).unwrap();
                in_block = permissions.starts_with("rw-") && first_number(value) >= GUEST_BLOCK_KIB;
                if in_block {
                    blocks.push((mapping.to_owned(), 0));
                }
            }
            "Rss" | "Swap" | "Shared_Hugetlb" | "Private_Hugetlb" if in_block => {
                blocks.last_mut().unwrap().1 += first_number(value);
            }
            _ => {}
        }
    }
    blocks
}

/// Waits until the guest has touched all that it works on, so that what comes afterwards is not by its doing.
fn settled_guest_memory(pid: u32) -> Vec<(String, u64)> {
    let until = std::time::Instant::now() + PATIENCE;
    let mut before = guest_memory_in_use(pid);
    loop {
        std::thread::sleep(Duration::from_millis(1500));
        let now = guest_memory_in_use(pid);
        if now == before {
            return now;
        }
        assert!(
            std::time::Instant::now() < until,
            "the guest still takes memory: {before:?}, {now:?}"
        );
        before = now;
    }
}

fn spec(mib: u64) -> GuestSpec {
    GuestSpec {
        memory: Bytes::mib(mib),
        working_set: Bytes::mib(32),
        ..GuestSpec::new(Workload::Random { rate: PagesPerSecond(5000) })
    }
}

/// A guest of 256 MiB, with a device that brings more memory.
fn with_memory_device(object: &str, device: &str) -> VmBuilder {
    let (object, device) = (format!("{object},id=more"), format!("{device},memdev=more"));
    let memory = "256M,slots=1,maxmem=512G";
    Vm::builder(&spec(256)).arguments(["-m", memory, "-object", &object, "-device", &device])
}

fn boot(builder: VmBuilder) -> Option<Vm> {
    match builder.start() {
        Ok(vm) => {
            vm.heartbeats().ready(PATIENCE).unwrap();
            Some(vm)
        }
        Err(error @ VmError::NoQemu { .. }) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

/// Looks at a guest, and asserts that nothing has been populated by that.
async fn assert_harmless(vm: &Vm, kind: &str) {
    let address = QmpAddress::Unix(vm.qmp_socket());
    let (mut monitor, _events) = QemuMonitor::connect(&address).await.unwrap();
    // The kernel may put pages together to huge ones at any time, which takes memory.
    let khugepaged = "/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs";
    let _asleep = SystemSetting::set(khugepaged, "3600000");
    let guest_before = settled_guest_memory(vm.pid());
    let before = memory_in_use(vm.pid());
    let found = probe_guest(&mut monitor, None, Duration::from_millis(1500)).await;
    let after = memory_in_use(vm.pid());
    let guest_after = guest_memory_in_use(vm.pid());
    println!("{kind}\n  before {before:?}\n  after  {after:?}\n  notes {:?}", found.notes);
    println!("  guest's {guest_after:?}");
    assert!(!found.prior.points.is_empty() && found.prior.contents.is_some(), "{found:?}");
    assert!(!guest_before.is_empty(), "{kind}: no block of the guest's memory was found");
    assert_eq!(guest_before, guest_after, "{kind}");
    for (key, now) in &after {
        let was = before[key];
        match key.as_str() {
            "RssAnon" | "RssFile" => {
                assert!(*now <= was + OWN_MEMORY_KIB, "{kind}: {key} was {was}, is {now}")
            }
            _ => assert_eq!(*now, was, "{kind}: {key}"),
        }
    }
    let mut witness = vm.raw_qmp().unwrap();
    assert_eq!(witness.run("query-status").unwrap()["status"], "running");
}

#[tokio::test]
async fn a_look_populates_nothing_of_anonymous_shared_and_file_memory() {
    let _turn = take_turn().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("memory");
    for backend in [
        "memory-backend-ram".to_owned(),
        "memory-backend-ram,share=on".to_owned(),
        "memory-backend-memfd,share=on".to_owned(),
        format!("memory-backend-file,share=on,mem-path={}", file.display()),
        format!("memory-backend-file,share=off,mem-path={}", file.display()),
    ] {
        let Some(vm) = boot(Vm::builder(&spec(512)).memory_backend(&backend)) else { return };
        assert_harmless(&vm, &backend).await;
    }
}

#[tokio::test]
async fn a_look_populates_nothing_of_memory_that_is_not_plugged() {
    let _turn = take_turn().unwrap();
    for (kind, backend) in [
        ("virtio-mem on memfd", "memory-backend-memfd,share=on,reserve=off"),
        ("virtio-mem on anonymous memory", "memory-backend-ram,reserve=off"),
    ] {
        let object = format!("{backend},size=1G");
        let vm = with_memory_device(&object, "virtio-mem-pci,requested-size=0");
        let Some(vm) = boot(vm) else { return };
        assert_harmless(&vm, kind).await;
    }
}

#[tokio::test]
async fn memory_that_was_given_back_stays_given_back() {
    // What a balloon does: holes are punched into the guest's memory.
    let _turn = take_turn().unwrap();
    let backend = "memory-backend-memfd,share=on";
    let Some(vm) = boot(Vm::builder(&spec(512)).memory_backend(backend)) else { return };
    let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
    let range = maps.lines().find(|line| line.contains("memfd:")).unwrap();
    let range = range.split_whitespace().next().unwrap();
    let file = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{}/map_files/{range}", vm.pid()))
        .unwrap();
    let hole = rustix::fs::FallocateFlags::PUNCH_HOLE | rustix::fs::FallocateFlags::KEEP_SIZE;
    // Far above what the guest works on.
    rustix::fs::fallocate(&file, hole, 300 << 20, 200 << 20).unwrap();
    assert_harmless(&vm, "ballooned").await;
}

#[tokio::test]
async fn a_look_takes_no_huge_page() {
    let _turn = take_turn().unwrap();
    let Some(pool) = reserve_huge_pages(300) else { return };
    for backend in [
        "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=on,prealloc=off,reserve=off",
        "memory-backend-memfd,hugetlb=on,hugetlbsize=2M,share=off,prealloc=off,reserve=off",
    ] {
        // 2 GiB of memory on 600 MB of huge pages: one too many, and QEMU is killed.
        let Some(vm) = boot(Vm::builder(&spec(2048)).memory_backend(backend)) else { return };
        assert_harmless(&vm, backend).await;
    }
    drop(pool);
}

/// A quarter of a tebibyte whose pages were all read, so that each is the kernel's one zero page and has its
/// entry in the page tables: what a large idle guest looks like from outside. Reports; asserts no time.
#[tokio::test]
#[ignore = "fills page tables for minutes; run it by its name for docs/measurements/looks.md"]
async fn a_look_at_a_quarter_of_a_tebibyte_is_reported() {
    let _turn = take_turn().unwrap();
    // Otherwise one entry stands for 2 MiB of zeros.
    let small_pages = SystemSetting::set("/sys/kernel/mm/transparent_hugepage/enabled", "never");
    if small_pages.is_none() {
        eprintln!("landfall: huge pages stay on");
    }
    for mib in [1024_u64, 256 << 10] {
        let object = format!("memory-backend-ram,reserve=off,size={mib}M");
        let Some(vm) = boot(with_memory_device(&object, "pc-dimm")) else { return };
        let begun = std::time::Instant::now();
        let pages = read_all_memory(vm.pid(), mib << 20);
        let filled = begun.elapsed();
        let address = QmpAddress::Unix(vm.qmp_socket());
        let (mut monitor, _events) = QemuMonitor::connect(&address).await.unwrap();
        let begun = std::time::Instant::now();
        let maps = fs::read_to_string(format!("/proc/{}/maps", vm.pid())).unwrap();
        let maps_took = begun.elapsed();
        let begun = std::time::Instant::now();
        let budget = Duration::from_millis(500);
        let found = probe_guest(&mut monitor, None, budget).await;
        let look = begun.elapsed().saturating_sub(budget);
        let begun = std::time::Instant::now();
        let smaps = fs::read_to_string(format!("/proc/{}/smaps", vm.pid())).unwrap();
        println!(
            "{mib} MiB, {pages} pieces read in {filled:.1?}: maps {maps_took:.1?} ({} bytes), a probe of \
             {budget:?} took {look:.1?} longer than that ({} points), smaps, no longer read, {:.1?} ({} bytes)",
            maps.len(),
            found.prior.points.len(),
            begun.elapsed(),
            smaps.len()
        );
    }
}

/// Reads all of a guest's memory by `/proc/PID/mem`, one page of 4 KiB after the other; returns how many.
fn read_all_memory(pid: u32, bytes: u64) -> u64 {
    use std::os::unix::fs::FileExt;
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let range = maps
        .lines()
        .filter_map(|line| {
            let (start, end) = line.split_whitespace().next()?.split_once('-')?;
            let of = |text| u64::from_str_radix(text, 16).ok();
            Some((of(start)?, of(end)?))
        })
        .find(|(start, end)| end - start >= bytes)
        .unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut pieces = 0;
    for at in (range.0..range.0 + bytes).step_by(buffer.len()) {
        if memory.read_exact_at(&mut buffer, at).is_ok() {
            pieces += 1;
        }
    }
    pieces
}

/// Reserves huge pages; `None`, with the reason printed, where that cannot be done.
fn reserve_huge_pages(pages: u64) -> Option<SystemSetting> {
    let Some(pool) = SystemSetting::set("/proc/sys/vm/nr_hugepages", &pages.to_string()) else {
        eprintln!("skipped: huge pages cannot be reserved here");
        return None;
    };
    let got: u64 = fs::read_to_string(&pool.file).ok()?.trim().parse().ok()?;
    if got < pages {
        eprintln!("skipped: {got} huge pages instead of {pages}");
        return None;
    }
    Some(pool)
}

/// A setting of the machine that is changed for a test, and put back.
struct SystemSetting {
    file: PathBuf,
    before: String,
}

impl SystemSetting {
    fn set(file: &str, value: &str) -> Option<SystemSetting> {
        let before = fs::read_to_string(file).ok()?;
        // A choice of words has the one in force in brackets.
        let chosen = before.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
        let before = chosen.map_or(before.trim(), |(word, _)| word).to_owned();
        fs::write(file, value).ok()?;
        Some(SystemSetting { file: file.into(), before })
    }
}

impl Drop for SystemSetting {
    fn drop(&mut self) {
        let _ = fs::write(&self.file, &self.before);
    }
}
