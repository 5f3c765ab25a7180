//! `landfall serve` over HTTP, without a guest: as browsers, scripts and attackers speak to it.
//! `real_qemu/serve.rs` shows the pages in a browser.

mod access;
mod listening;
mod page_server;
