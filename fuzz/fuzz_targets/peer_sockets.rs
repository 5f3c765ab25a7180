//! What the kernel says of the other end of a connection: any bytes name one or none.

#![no_main]

use landfall_qemu::procfs::sockets::{parse_tcp_row, parse_unix_peer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|answer: &[u8]| {
    let _ = parse_unix_peer(answer);
    for row in String::from_utf8_lossy(answer).lines().filter_map(parse_tcp_row) {
        assert_eq!(row.local.ip(), row.local.ip().to_canonical());
        assert_eq!(row.peer.ip(), row.peer.ip().to_canonical());
    }
});
