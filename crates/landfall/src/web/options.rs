//! The options of `landfall serve`.

use std::path::PathBuf;

use clap::Args;
use landfall_qemu::qmp::QmpAddress;

use super::listen::Place;

/// Serves a page that shows guests, what each setting of a migration implies before it is started, and
/// migrations as they go. All of it is in this one program; no page asks another host for anything.
///
/// Whoever opens the page needs the token that is printed at the start. Migrations that the page starts
/// are processes of their own and go on when the page ends.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Options {
    /// Where to listen: an address of this host alone, or unix:/path. Any other address takes
    /// --tls-cert
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:7700")]
    pub listen: Place,

    /// QMP monitor of a guest to show, unix:/run/vm.qmp or tcp:127.0.0.1:4445; again for another.
    /// Guests that run on this host are found by themselves
    #[arg(long, value_name = "ADDRESS")]
    pub guest: Vec<QmpAddress>,

    /// Folder of the recordings that the page shows and makes [default: /var/lib/landfall for root,
    /// else ~/.local/state/landfall]
    #[arg(long, value_name = "FOLDER")]
    pub recordings: Option<PathBuf>,

    /// Certificates to be known by, PEM, the server's own first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Key of the first certificate, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Name by which browsers know this host, where that is not an address or localhost; again for
    /// another. Requests under any other name are refused
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,

    /// Keep the token in this file, so that it is the same after a restart; made where it is missing
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Whoever reaches the page may look at it without the token; nothing is changed without it
    #[arg(long)]
    pub public_read: bool,
}

const EXAMPLES: &str = "\
Examples:
  On the host that guests are to leave; open the address that is printed:

    sudo landfall serve

  From a desk elsewhere, without opening anything to the network:

    ssh -L 7700:127.0.0.1:7700 host      and open the printed address here

  For others, encrypted:

    sudo landfall serve --listen 0.0.0.0:7700 --tls-cert cert.pem --tls-key key.pem --name vmhost.example";
