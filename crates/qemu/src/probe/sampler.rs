//! Looks at pages of a guest's memory and changes nothing by it.
//!
//! A page is read only if the kernel says that it is present: one that is not present would be populated by
//! the reading, taken from a pool of huge pages or read back from swap. Between that answer and the reading
//! lies a microsecond in which the page can be dropped (ballooning, an unplug, swapping). What the reading
//! does then depends on the memory:
//!
//! - Shared memory of tmpfs, memfd and hugetlbfs: nothing, because the page is read from the file, where a
//!   hole reads as zeros (it is read back if it went to swap). That takes the right to open
//!   `/proc/PID/map_files` (CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE). Without that it is read like any other,
//!   and this one page is populated.
//! - Private anonymous memory: the kernel maps its one zero page, which takes no memory. A page that went to
//!   swap is read back.
//! - Private memory of hugetlbfs: one huge page is taken from the pool. If the pool is empty, the reading
//!   fails here; QEMU gets no signal, because it is not its own access.
//!
//! The kernel counts a page that was read as used lately, so it is swapped out somewhat later than without
//! the look.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use landfall_core::units::{Bytes, PAGE};
use rustix::fs::fstatfs;
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::clock::{CpuClock, CpuReading};
use super::regions::{GuestMemory, GuestRegion};
use crate::procfs::process_file;

/// `TMPFS_MAGIC` and `HUGETLBFS_MAGIC` (`linux/magic.h`): the file systems whose files can be read without
/// populating holes.
const TMPFS_MAGIC: i64 = 0x0102_1994;
const HUGETLBFS_MAGIC: i64 = 0x9584_58f6;

/// What a look shows of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PageLook {
    /// QEMU has no such page: never written, or given back.
    Absent,
    /// It is in swap, or on its way to another place.
    Swapped,
    /// It is there; the checksum of its contents, 0 if they are all zeros.
    Present(u64),
}

/// What one look shows.
#[derive(Debug)]
pub(super) struct GuestLook {
    /// The pages that were looked at, in the order in which they were asked for.
    pub(super) pages: Vec<PageLook>,
    /// When, on average over the pages. If the same pages are looked at twice, the time between the two
    /// averages is the average time between two looks at a page, however long each look takes. `None` if a
    /// counter of the guest's CPU time cannot be read.
    pub(super) at: Option<CpuReading>,
    /// CPU time that the look took.
    pub(super) cost: Duration,
}

/// Looks at the memory of one guest.
#[derive(Debug)]
pub(super) struct MemorySampler {
    pagemap: File,
    memory: File,
    regions: Vec<SampledRegion>,
    pages: u64,
}

#[derive(Debug)]
struct SampledRegion {
    region: GuestRegion,
    /// Number of its first page, counted over all regions.
    first: u64,
    /// Its file, if that can be read without populating holes, and where the region begins in it.
    file: Option<(File, u64)>,
}

/// A file of QEMU's process that the kernel does not let landfall open.
#[derive(Debug)]
pub(super) struct ClosedFile {
    pub(super) path: PathBuf,
    pub(super) source: io::Error,
}

impl MemorySampler {
    /// Opens the memory of a QEMU process.
    ///
    /// # Errors
    /// [`ClosedFile`]: landfall may not trace the process, or it has ended.
    pub(super) fn open(pid: i32, memory: &GuestMemory) -> Result<MemorySampler, ClosedFile> {
        let open = |name: &str| {
            let path = process_file(pid, name);
            File::open(&path).map_err(|source| ClosedFile { path, source })
        };
        let mut pages = 0u64;
        let mut regions = Vec::new();
        for region in &memory.regions {
            let file = hole_safe_file(pid, region);
            regions.push(SampledRegion { region: region.clone(), first: pages, file });
            pages = pages.saturating_add(region.pages);
        }
        Ok(MemorySampler { pagemap: open("pagemap")?, memory: open("mem")?, regions, pages })
    }

    /// Returns how much memory can be looked at.
    pub(super) fn covered(&self) -> Bytes {
        Bytes(self.pages.saturating_mul(PAGE.0))
    }

    /// Returns the numbers of at most `count` pages, one of each of as many equal parts of the memory, at a
    /// pseudo-random place in it that `seed` decides: a regular layout is not always met at the same place.
    pub(super) fn choose_pages(&self, count: u64, seed: u64) -> Vec<u64> {
        let count = count.min(self.pages);
        let edge =
            |part: u64| (u128::from(part) * u128::from(self.pages) / u128::from(count)) as u64;
        let choose = |part: u64| {
            let (from, to) = (edge(part), edge(part + 1));
            from + scramble(seed << 32 | part) % (to - from).max(1)
        };
        (0..count).map(choose).collect()
    }

    /// Looks at pages, which are in ascending order.
    ///
    /// # Errors
    /// Reading the page table fails: QEMU has ended.
    pub(super) fn look(&self, numbers: &[u64], clock: &CpuClock) -> io::Result<GuestLook> {
        let own_cpu = || Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).ok();
        let cost_before = own_cpu();
        let before = clock.read();
        let start = Instant::now();
        let mut times = Duration::ZERO;
        let mut pages = Vec::with_capacity(numbers.len());
        let mut contents = [0; PAGE.0 as usize];
        let mut regions = self.regions.iter().peekable();
        for number in numbers {
            while regions.next_if(|of| of.first + of.region.pages <= *number).is_some() {}
            let Some(region) = regions.peek() else { break };
            times += start.elapsed();
            pages.push(self.look_at_page(region, number - region.first, &mut contents)?);
        }
        let mean = start + times.checked_div(pages.len() as u32).unwrap_or_default();
        let after = clock.read();
        let cost = own_cpu().zip(cost_before).map(|(now, then)| now.saturating_sub(then));
        Ok(GuestLook {
            pages,
            at: before.zip(after).map(|(before, after)| before.between(after, mean)),
            cost: cost.unwrap_or_else(|| start.elapsed()),
        })
    }

    fn look_at_page(
        &self,
        of: &SampledRegion,
        page: u64,
        contents: &mut [u8; PAGE.0 as usize],
    ) -> io::Result<PageLook> {
        let address = of.region.start + page * PAGE.0;
        let mut entry = [0; 8];
        self.pagemap.read_exact_at(&mut entry, address / PAGE.0 * 8)?;
        // Bit 63: present; bit 62: in swap (Documentation/admin-guide/mm/pagemap.rst).
        match u64::from_ne_bytes(entry) >> 62 {
            0 => return Ok(PageLook::Absent),
            1 | 3 => return Ok(PageLook::Swapped),
            _ => {}
        }
        let read = match &of.file {
            Some((file, offset)) => file.read_exact_at(contents, offset + page * PAGE.0),
            None => self.memory.read_exact_at(contents, address),
        };
        // It was dropped a moment ago, and the kernel has no page to put in its place.
        Ok(read.map_or(PageLook::Absent, |()| PageLook::Present(checksum(contents))))
    }
}

/// Opens the file of a shared mapping if it can be read without populating its holes, and returns where the
/// region begins in it.
fn hole_safe_file(pid: i32, region: &GuestRegion) -> Option<(File, u64)> {
    let mapping = &region.mapping;
    if !mapping.is_shared || mapping.inode == 0 {
        return None;
    }
    let name = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    let file = File::open(process_file(pid, &name)).ok()?;
    let kind = fstatfs(&file).ok()?.f_type as i64;
    let is_safe = [TMPFS_MAGIC, HUGETLBFS_MAGIC].contains(&kind) && file.metadata().ok()?.is_file();
    is_safe.then(|| (file, mapping.offset + (region.start - mapping.start)))
}

/// Returns a checksum of a page: 0 if it is all zeros.
///
/// Each step maps different states to different states, so two pages that differ in one word never have the
/// same checksum. Others have it by a chance of 1 in 2^64.
fn checksum(page: &[u8; PAGE.0 as usize]) -> u64 {
    let mut sum = 0u64;
    for word in page.as_chunks::<8>().0 {
        sum = (sum ^ u64::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }
    sum
}

/// Scrambles a number (splitmix64).
fn scramble(number: u64) -> u64 {
    let mut n = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

impl ClosedFile {
    /// Returns whether the process has ended, or the file never was.
    pub(super) fn is_gone(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
            || Errno::from_io_error(&self.source) == Some(Errno::SRCH)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::maps::read_mappings;
    use proptest::prelude::*;

    const PAGES: u64 = 4096;

    fn own_pid() -> i32 {
        rustix::process::getpid().as_raw_nonzero().get()
    }

    /// A sampler of this process's own memory, where `memory` lies.
    fn sampler_of(memory: &[u8]) -> MemorySampler {
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE.0);
        let mappings = read_mappings(own_pid()).unwrap();
        let of = mappings.iter().find(|of| of.start <= start && start < of.end).unwrap();
        let region = GuestRegion { start, pages: PAGES, mapping: of.clone() };
        let memory = GuestMemory { regions: vec![region], ..GuestMemory::default() };
        MemorySampler::open(own_pid(), &memory).unwrap()
    }

    fn look(sampler: &MemorySampler, pages: &[u64]) -> Vec<PageLook> {
        sampler.look(pages, &CpuClock::open(&[])).unwrap().pages
    }

    #[test]
    fn pages_that_were_never_touched_are_not_populated_and_those_of_zeros_are_told_from_the_rest() {
        let size = ((PAGES + 1) * PAGE.0) as usize;
        // Zeroed memory of this size is mapped, not written.
        let mut memory = vec![0u8; size];
        memory[..size / 4].fill(7);
        memory[size / 2..size * 3 / 4].fill(1);
        memory[size / 2..size * 3 / 4].fill(0);
        let sampler = sampler_of(&memory);
        let all: Vec<u64> = (0..PAGES).collect();
        let first = look(&sampler, &all);
        let count = |is: fn(&PageLook) -> bool| first.iter().filter(|page| is(page)).count() as f64;
        let nonzero = count(|page| matches!(page, PageLook::Present(sum) if *sum != 0));
        assert!((nonzero / PAGES as f64 - 0.25).abs() < 0.005, "{nonzero}");
        // Where the kernel gives huge pages unasked, neighbours of the touched ones are there too.
        assert!(count(|page| *page == PageLook::Present(0)) / PAGES as f64 > 0.245);
        assert_eq!(look(&sampler, &all), first, "looked at twice, and nothing has come or gone");
    }

    #[test]
    fn a_page_that_was_written_between_two_looks_shows() {
        let mut memory = vec![1u8; ((PAGES + 1) * PAGE.0) as usize];
        let sampler = sampler_of(&memory);
        let pages = sampler.choose_pages(1000, 7);
        let before = look(&sampler, &pages);
        let half = memory.len() / 2;
        memory[..half].iter_mut().step_by(512).for_each(|byte| *byte += 1);
        let after = look(&sampler, &pages);
        let changed = before.iter().zip(&after).filter(|(one, other)| one != other).count();
        assert!((499..=502).contains(&changed), "{changed}");
    }

    #[test]
    fn the_checksum_of_zeros_is_zero_and_of_anything_else_it_is_not() {
        let mut page = [0; PAGE.0 as usize];
        assert_eq!(checksum(&page), 0);
        for at in [0, 8, 4095] {
            page[at] = 1;
            assert_ne!(checksum(&page), 0);
        }
    }

    #[test]
    fn a_process_that_is_gone_is_told_from_one_that_may_not_be_read() {
        let gone = MemorySampler::open(i32::MAX, &GuestMemory::default()).unwrap_err();
        assert!(gone.is_gone());
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(!ClosedFile { source, path: PathBuf::new() }.is_gone());
    }

    proptest! {
        #[test]
        fn pages_are_chosen_evenly_and_in_order(pages in 0u64..1 << 40, count in 0u64..500, seed: u64) {
            let (pagemap, memory) = (File::open("/dev/null").unwrap(), File::open("/dev/null").unwrap());
            let sampler = MemorySampler { pagemap, memory, regions: Vec::new(), pages };
            let chosen = sampler.choose_pages(count, seed);
            prop_assert_eq!(chosen.len() as u64, count.min(pages));
            prop_assert!(chosen.is_sorted() && chosen.iter().all(|page| *page < pages));
            let half = chosen.iter().filter(|page| **page < pages / 2).count() as u64;
            prop_assert!(half.abs_diff(chosen.len() as u64 / 2) <= 1);
        }

        #[test]
        fn a_changed_word_always_changes_the_checksum(at in 0usize..512, from: u64, to: u64) {
            let mut page = [3; PAGE.0 as usize];
            page[at * 8..][..8].copy_from_slice(&from.to_ne_bytes());
            let before = checksum(&page);
            page[at * 8..][..8].copy_from_slice(&to.to_ne_bytes());
            prop_assert_eq!(checksum(&page) == before, from == to);
        }
    }
}
