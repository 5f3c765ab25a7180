//! The options of `landfall serve`.

use std::path::PathBuf;

use clap::Args;
use landfall_qemu::qmp::QmpAddress;

use super::listen::ListenAddress;

/// Serves a management page: the guests of this host, what each setting of a migration implies before
/// it starts, and migrations while they run. One program serves everything; no page loads anything from
/// another host.
///
/// Opening the page takes the token that is printed at the start. Migrations that are started on the
/// page are processes of their own: they continue when landfall serve ends.
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ServeOptions {
    /// Where to listen: a loopback address with a port, or unix:/path. Any other address needs
    /// --tls-cert and --tls-key
    #[arg(long, value_name = "PLACE", default_value = "127.0.0.1:7700")]
    pub listen: ListenAddress,

    /// QMP monitor of a guest to show, unix:/run/vm.qmp or tcp:127.0.0.1:4445; repeat for more guests.
    /// Guests that run on this host are found without it
    #[arg(long, value_name = "ADDRESS")]
    pub guest: Vec<QmpAddress>,

    /// Folder for the recordings of migrations, those shown and those started here
    /// [default: /var/lib/landfall for root, else ~/.local/state/landfall]
    #[arg(long, value_name = "FOLDER")]
    pub recordings: Option<PathBuf>,

    /// TLS certificate chain as a PEM file, the server's own certificate first
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of the server's certificate as a PEM file
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// A name by which browsers reach this host, other than an IP address or localhost; repeat for more.
    /// Requests for other names are refused
    #[arg(long, value_name = "NAME")]
    pub name: Vec<String>,

    /// Keep the token in this file, so that it stays the same after a restart; created if missing
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,

    /// Show guests and migrations without the token. Changes still need it
    #[arg(long)]
    pub public_read: bool,
}

const EXAMPLES: &str = "\
Examples:
  On the host that guests are to leave; open the address that is printed:

    sudo landfall serve

  From your own machine, without opening a port to the network:

    ssh -L 7700:127.0.0.1:7700 host      and open the printed address there

  For other machines, encrypted:

    sudo landfall serve --listen 0.0.0.0:7700 --tls-cert cert.pem --tls-key key.pem --name vmhost.example";
