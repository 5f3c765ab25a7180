//! A guest, the place it can go to, and a link of a set speed between the two.

use std::time::Duration;

use landfall_core::units::ByteRate;

use crate::{Endpoint, GuestHeader, GuestSpec, LinkRelay, Vm, VmError};

/// A source with a running guest, a destination that waits for it, and the link between them.
///
/// On bare loopback QEMU's final copy, for which it switches its rate limit off, is so fast that
/// every downtime looks short. Over the link it takes the time it takes on a real one.
#[derive(Debug)]
pub struct MigrationPair {
    /// Where the guest runs.
    pub source: Vm,
    /// Where it can go.
    pub destination: Vm,
    /// The way there.
    pub link: LinkRelay,
    /// What the guest said of itself when it was ready.
    pub header: GuestHeader,
}

/// How long a guest may take from the start of QEMU until its memory is filled.
const READY: Duration = Duration::from_secs(30);

impl MigrationPair {
    /// Boots a guest and waits until it works.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn boot(spec: &GuestSpec, rate: ByteRate) -> Result<MigrationPair, VmError> {
        MigrationPair::start(Vm::builder(spec).start()?, rate)
    }

    /// Completes a running source with a destination of the same kind.
    ///
    /// # Errors
    /// See [`VmError`].
    pub fn start(source: Vm, rate: ByteRate) -> Result<MigrationPair, VmError> {
        let destination = source.destination().start()?;
        let to: Endpoint = destination.incoming().unwrap_or_default().parse().map_err(no_link)?;
        let link = LinkRelay::new(to, Some(rate)).map_err(no_link)?;
        let header = source.heartbeats().ready(READY)?;
        Ok(MigrationPair { source, destination, link, header })
    }

    /// The migration URI of the link's near end.
    pub fn uri(&self) -> String {
        self.link.endpoint().to_string()
    }
}

fn no_link(source: std::io::Error) -> VmError {
    VmError::Io { what: "make the link to the destination".to_owned(), source }
}
