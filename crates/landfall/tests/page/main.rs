//! `landfall serve` as a browser, a script and somebody with bad intentions speak to it: over HTTP, without
//! a guest. That pages work in a browser is seen in `real_qemu/page.rs`.

mod access;
mod doors;
mod serving;
