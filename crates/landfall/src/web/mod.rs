//! `landfall serve`: the management page.
//!
//! Everything is rendered here, as HTML and SVG; the browser gets one style sheet and one small script,
//! which replaces parts of a page by newer ones. What takes long is done off the threads that answer.
//!
//! ```text
//! listen  where, and on which conditions      guests      known guests, and looks at them
//! access  who may do what                     discover    guests that run on this host
//! routes  which address is what               migrations  started, found again, cancelled
//! *_page  the pages                           track       a migration, from its recording
//! pictures  SVG                               events      the same while it goes on
//! settings  what was set on the page          implied     what that implies
//! control   changes and cancels a migration   foreseen    what was expected of one
//! ```

mod access;
mod control;
mod discover;
mod events;
mod foreseen;
mod guest_page;
mod guests;
mod guests_page;
mod history_page;
mod implied;
mod implied_page;
mod layout;
mod listen;
mod migration_page;
mod migrations;
mod options;
mod pictures;
mod routes;
mod settings;
mod track;

use std::env;
use std::path::PathBuf;
use std::sync::Arc;

use landfall_qemu::stdio::{eprint_line, print_line};
use tokio::sync::Semaphore;

pub use options::Options;

use crate::{USAGE, signals};
use access::{Access, Token};
use guests::Guests;
use listen::Door;
use migrations::Migrations;

/// What the pages are made of.
pub struct Site {
    access: Arc<Access>,
    guests: Guests,
    migrations: Migrations,
    /// Simulations at a time: one, for each takes a processor that guests may want.
    simulations: Semaphore,
}

/// Serves until it is told to end, and gives the exit status.
pub async fn run(options: Options) -> u8 {
    match open(&options).await {
        Ok((door, site)) => {
            greet(&options, &door, &site);
            let mut stops = signals::listen();
            tokio::select! {
                () = door.serve(routes::all(Arc::new(site))) => {}
                _ = stops.recv() => {}
            }
            options.listen.leave();
            0
        }
        Err(problem) => {
            eprint_line(&format!("landfall: {problem}"));
            USAGE
        }
    }
}

async fn open(options: &Options) -> Result<(Door, Site), String> {
    let certificate = options.tls_cert.as_deref().zip(options.tls_key.as_deref());
    let door = Door::open(&options.listen, certificate).await.map_err(|error| error.to_string())?;
    let token = match &options.token_file {
        Some(path) => Token::kept_in(path)?,
        None => Token::new().map_err(|error| format!("no token can be made: {error}"))?,
    };
    let access = Access {
        token,
        names: options.name.clone(),
        encrypted: door.is_encrypted(),
        public_read: options.public_read,
    };
    let program = env::current_exe()
        .map_err(|error| format!("landfall cannot find its own program: {error}"))?;
    let folder = options.recordings.clone().unwrap_or_else(recordings);
    let site = Site {
        access: Arc::new(access),
        guests: Guests::new(options.guest.clone()),
        migrations: Migrations::open(&folder, program)?,
        simulations: Semaphore::new(1),
    };
    Ok((door, site))
}

/// Where recordings are, if nobody says otherwise.
fn recordings() -> PathBuf {
    let home = env::var_os("HOME").filter(|_| !rustix::process::geteuid().is_root());
    let state = env::var_os("XDG_STATE_HOME").map(PathBuf::from).filter(|_| home.is_some());
    match (state, home) {
        (Some(state), _) => state.join("landfall"),
        (None, Some(home)) => PathBuf::from(home).join(".local/state/landfall"),
        (None, None) => PathBuf::from("/var/lib/landfall"),
    }
}

/// Tells the operator where to go, and the token.
fn greet(options: &Options, door: &Door, site: &Site) {
    let token = site.access.token.as_str();
    match door.address() {
        Some(address) => {
            let scheme = if door.is_encrypted() { "https" } else { "http" };
            let host = options.name.first().filter(|_| address.ip().is_unspecified());
            let host =
                host.map_or(address.to_string(), |name| format!("{name}:{}", address.port()));
            print_line(&format!("Open {scheme}://{host}/login#{token}"));
        }
        None => print_line(&format!("Listening on {}; the token is {token}", options.listen)),
    }
    if site.access.public_read {
        print_line(
            "Whoever reaches it may look; nothing is changed without the token (--public-read)",
        );
    }
}
