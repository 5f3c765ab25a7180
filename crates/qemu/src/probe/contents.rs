//! How much of a guest's memory has contents, from the page tables of its QEMU.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;

use landfall_core::units::{Bytes, PAGE};

/// Memory of QEMU process `pid` that is not all zeros, in the mappings of the guest's memory, which
/// has blocks of these sizes. `None` where one cannot be told from QEMU's other mappings.
///
/// Pages that nobody ever wrote are not resident: in private memory a page that was only read is
/// the kernel's one zero page, which does not count. Of the others pages spread over all of it are
/// looked at, for whether they hold anything but zeros and for nothing else: huge pages are resident
/// as a whole where a byte of them was written. Where they may not be looked at, all that is resident
/// counts, which is an upper bound. For shared memory it leaves out what QEMU itself has not
/// touched.
///
/// Reading the map makes the kernel walk the page tables of the whole process: 4 ms for a guest of
/// 256 MiB; the pages take 20 ms.
pub(super) fn of(pid: i32, blocks: &[Bytes]) -> Option<Bytes> {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?;
    let of_block = |mapping: Mapping| {
        let part = written(pid, mapping).ok().flatten();
        let resident = mapping.resident.min(mapping.size);
        part.map_or(resident, |part| ((part * mapping.size as f64) as u64).min(resident))
    };
    Some(of_blocks(&smaps, blocks)?.into_iter().map(of_block).map(Bytes).sum())
}

/// Pages looked at of each block, evenly spread: what lies together is then known to a few pages in
/// as many, and what is scattered to half a point in a hundred.
const LOOKS: u64 = 8192;

/// The part of a mapping that holds anything but zeros; `None` where the process has no such page
/// tables any more.
fn written(pid: i32, mapping: Mapping) -> io::Result<Option<f64>> {
    let tables = File::open(format!("/proc/{pid}/pagemap"))?;
    let memory = File::open(format!("/proc/{pid}/mem"))?;
    let pages = mapping.size / PAGE.0;
    let looks = LOOKS.min(pages);
    let (mut entry, mut page) = ([0; 8], vec![0; PAGE.0 as usize]);
    let mut found = 0u64;
    for look in 0..looks {
        // Shifted from one look to the next, so that no regular layout is met at the same place.
        let within = look.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
        let step = pages / looks;
        let number = look * pages / looks + within % step.max(1);
        let address = mapping.start + number * PAGE.0;
        tables.read_exact_at(&mut entry, address / PAGE.0 * 8)?;
        // Bit 63: present; bit 62: in swap (Documentation/admin-guide/mm/pagemap.rst). To look at what
        // is neither would allocate it in shared memory.
        match u64::from_ne_bytes(entry) >> 62 {
            0 => {}
            1 => found += 1,
            _ => {
                memory.read_exact_at(&mut page, address)?;
                found += u64::from(page.iter().any(|byte| *byte != 0));
            }
        }
    }
    Ok((looks > 0).then(|| found as f64 / looks as f64))
}

/// A mapping that could be memory of a guest.
#[derive(Debug, Clone, Copy, Default)]
struct Mapping {
    start: u64,
    size: u64,
    resident: u64,
}

/// The mapping of each block of memory.
fn of_blocks(smaps: &str, blocks: &[Bytes]) -> Option<Vec<Mapping>> {
    let mut mappings = mappings(smaps);
    mappings.sort_by_key(|mapping| mapping.size);
    let mut blocks = blocks.to_vec();
    blocks.sort();
    let mut found = (!blocks.is_empty()).then(Vec::new)?;
    // From the largest: what fits it no better than another mapping is that other block's.
    for block in blocks.iter().rev() {
        let at = mappings.iter().position(|mapping| mapping.size >= block.0)?;
        found.push(Mapping { size: block.0, ..mappings.remove(at) });
    }
    Some(found)
}

/// The mappings that can be read and written, and not executed: TCG's buffer of translated code can
/// be larger than the guest.
fn mappings(smaps: &str) -> Vec<Mapping> {
    let mut found = Vec::new();
    let mut current: Option<Mapping> = None;
    for line in smaps.lines() {
        let mut words = line.split_ascii_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if !first.ends_with(':') {
            found.extend(current.take());
            let start =
                first.split_once('-').and_then(|(start, _)| u64::from_str_radix(start, 16).ok());
            let start = start.filter(|_| second.starts_with("rw-"));
            current = start.map(|start| Mapping { start, ..Mapping::default() });
            continue;
        }
        let (Some(mapping), Ok(kib)) = (&mut current, second.parse::<u64>()) else { continue };
        let bytes = kib.saturating_mul(1024);
        match first {
            "Size:" => mapping.size = bytes,
            // Pages of hugetlbfs are not in Rss.
            "Rss:" | "Swap:" | "Private_Hugetlb:" | "Shared_Hugetlb:" => {
                mapping.resident = mapping.resident.saturating_add(bytes);
            }
            _ => {}
        }
    }
    found.extend(current);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SMAPS: &str = "\
7fbea0000000-7fbea3e00000 ---p 00000000 00:00 0 
Size:             999999 kB
Rss:                   0 kB
7fbea3e00000-7fbeb3e00000 rw-p 00000000 00:00 0 
Size:             262144 kB
Rss:              104448 kB
Swap:                100 kB
VmFlags: rd wr mr mw me ac sd hg 
7fbeb4000000-7fbef3fff000 rwxp 00000000 00:00 0 
Size:            1048572 kB
Rss:                2048 kB
7fbf00000000-7fbf08000000 rw-s 00000000 00:0f 12 /dev/hugepages/a b
Size:             131072 kB
Rss:                   0 kB
Private_Hugetlb:   20480 kB
";

    fn resident(smaps: &str, blocks: &[Bytes]) -> Option<Bytes> {
        let found = of_blocks(smaps, blocks)?;
        Some(found.into_iter().map(|mapping| Bytes(mapping.resident.min(mapping.size))).sum())
    }

    #[test]
    fn pages_of_zeros_are_told_from_those_with_contents() {
        let pages = 4096;
        let mut memory = vec![0u8; (pages * PAGE.0) as usize];
        memory[..(pages * PAGE.0 / 4) as usize].fill(7);
        // Touched, and zeros again.
        memory[(pages * PAGE.0 / 2) as usize..].fill(1);
        memory[(pages * PAGE.0 / 2) as usize..].fill(0);
        let start = (memory.as_ptr() as u64).next_multiple_of(PAGE.0);
        let mapping = Mapping { start, size: (pages - 1) * PAGE.0, resident: 0 };
        let part = written(std::process::id() as i32, mapping).unwrap().unwrap();
        assert!((part - 0.25).abs() < 0.005, "{part}");
        assert_eq!(memory[0], 7);
    }

    #[test]
    fn the_guests_memory_is_told_from_the_other_mappings_by_its_size() {
        let kib = |n: u64| Some(Bytes(n << 10));
        assert_eq!(resident(SMAPS, &[Bytes::mib(256)]), kib(104_548));
        assert_eq!(resident(SMAPS, &[Bytes::mib(128), Bytes::mib(256)]), kib(125_028));
    }

    #[test]
    fn memory_that_no_mapping_can_hold_is_not_known() {
        assert_eq!(resident(SMAPS, &[Bytes::mib(1024)]), None);
        assert_eq!(resident(SMAPS, &[Bytes::mib(200), Bytes::mib(200)]), None);
        assert_eq!(resident(SMAPS, &[]), None);
        assert_eq!(of(i32::MAX, &[Bytes::mib(1)]), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "([0-9a-f:kB -]{0,30}\n|Size: [0-9]{0,25} kB\n|a rw-p\n){0,9}") {
            let _ = resident(&text, &[Bytes(1), Bytes(4096)]);
        }
    }
}
