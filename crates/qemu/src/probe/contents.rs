//! How much of a guest's memory has contents, from the page tables of its QEMU.

use std::fs;

use landfall_core::units::Bytes;

/// Memory of QEMU process `pid` that is resident, or swapped out, in the mappings of the guest's
/// memory, which has blocks of these sizes. `None` where one cannot be told from QEMU's other
/// mappings.
///
/// Pages that nobody ever wrote are not resident: in private memory a page that was only read is
/// the kernel's one zero page, which does not count. Pages that were written and are all zeros
/// again do count, so the figure is an upper bound of what goes over the wire in full. For shared
/// memory it leaves out what QEMU itself has not touched, and is a lower one.
///
/// Reading the file makes the kernel walk the page tables of the whole process: 4 ms for a guest of
/// 256 MiB.
pub(super) fn of(pid: i32, blocks: &[Bytes]) -> Option<Bytes> {
    resident(&fs::read_to_string(format!("/proc/{pid}/smaps")).ok()?, blocks)
}

/// A mapping that could be memory of a guest.
#[derive(Debug, Clone, Copy, Default)]
struct Mapping {
    size: u64,
    resident: u64,
}

fn resident(smaps: &str, blocks: &[Bytes]) -> Option<Bytes> {
    let mut mappings = mappings(smaps);
    mappings.sort_by_key(|mapping| mapping.size);
    let mut blocks = blocks.to_vec();
    blocks.sort();
    let mut sum = (!blocks.is_empty()).then_some(Bytes(0))?;
    // From the largest: what fits it no better than another mapping is that other block's.
    for block in blocks.iter().rev() {
        let at = mappings.iter().position(|mapping| mapping.size >= block.0)?;
        sum += Bytes(mappings.remove(at).resident.min(block.0));
    }
    Some(sum)
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
            current = second.starts_with("rw-").then(Mapping::default);
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
