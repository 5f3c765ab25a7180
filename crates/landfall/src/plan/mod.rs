//! `landfall plan`: what is known of a guest, what each setting implies, what conflicts, what to do.
//!
//! Nothing but the probe touches the guest. What is found out is worked out once ([`Prospects`]) and then
//! shown: in words and tables, as JSON, as a picture.

mod curve;
mod options;
mod prospects;
mod recommend;
mod words;

use std::io::Write;

use landfall_core::requirements::settings::Demands;
use landfall_qemu::stdio::{eprint_line, print_line};

use crate::USAGE;
use crate::foresight::Foresight;
use crate::signals;

pub use options::Plan;
pub use prospects::{Forecaster, Prospects};
pub use recommend::{Recommended, recommend};

/// Exit status where nobody answers at the monitor.
const FAILED: u8 = 5;

/// Runs it and gives the exit status.
pub async fn run(options: Plan) -> u8 {
    let mut demands = match options.asked.demands() {
        Ok(demands) => demands,
        Err(problem) => return problem_is(&problem, USAGE),
    };
    limit_to(&mut demands, &options);
    let mut stops = signals::listen();
    let gained = tokio::select! {
        biased;
        Some(reason) = stops.recv() => Err(reason),
        found = Foresight::gain(&options.source, &demands.requirements, options.asked.probe) => {
            found.map_err(|error| error.to_string())
        }
    };
    let foresight = match gained {
        Ok(foresight) => foresight,
        Err(problem) => return problem_is(&problem, FAILED),
    };
    let forecaster = Forecaster { foresight, policy: options.asked.policy.clone(), demands };
    let prospects = forecaster.prospects();
    if let Some(picture) = &options.picture
        && let Err(problem) = curve::draw(picture, &forecaster.foresight.prior)
    {
        return problem_is(&problem, USAGE);
    }
    show(&options, &prospects);
    0
}

/// The link carries no more than it can, whatever may be put on it.
fn limit_to(demands: &mut Demands, options: &Plan) {
    let limit = &mut demands.requirements.max_bandwidth;
    *limit = match (*limit, options.to_rate) {
        (Some(limit), Some(carries)) if limit.0 > carries.0 => Some(carries),
        (limit, carries) => limit.or(carries),
    };
}

fn problem_is(problem: &str, status: u8) -> u8 {
    eprint_line(&format!("landfall: {problem}"));
    status
}

fn show(options: &Plan, prospects: &Prospects) {
    if options.json {
        match serde_json::to_string(prospects) {
            Ok(text) => print_line(&text),
            Err(error) => {
                eprint_line(&format!("landfall: the plan cannot be written as JSON: {error}"))
            }
        }
        return;
    }
    // Nobody may be left to read it.
    drop(write!(anstream::stdout(), "{}", words::all(options, prospects)));
    if let Some(picture) = &options.picture {
        print_line(&format!("The curve is in {}", picture.display()));
    }
}
