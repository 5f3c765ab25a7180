//! `landfall plan`: what is known of a guest, what each setting implies, what conflicts, what to do.
//!
//! Nothing but the probe touches the guest. All answers are computed once ([`Prospects`]) and then shown: as
//! text, as JSON, as a picture.

mod text;

use std::io::Write;

use landfall_core::requirements::Settings;
use landfall_migration::charts::dirty_curve::draw_prior;
use landfall_migration::charts::write_svg;
use landfall_migration::forecaster::{Forecaster, Prospects};
use landfall_migration::preflight::Preflight;
use landfall_qemu::stdio::{eprint_line, print_line};

use crate::cli::PlanArgs;
use crate::command_error::CommandError;
use crate::signals;

/// Makes the plan and shows it.
///
/// # Errors
/// [`CommandError`].
pub async fn run(options: PlanArgs) -> Result<(), CommandError> {
    let mut settings = options.asked.settings().map_err(CommandError::usage)?;
    limit_to_link(&mut settings, &options);
    let mut stops = signals::listen();
    let preflight = tokio::select! {
        biased;
        Some(reason) = stops.recv() => return Err(CommandError::failed(reason)),
        found = Preflight::probe(
            &options.source,
            options.asked.qemu_pid,
            &settings.requirements,
            options.asked.probe,
        ) => {
            found.map_err(CommandError::failed)?
        }
    };
    let forecaster = Forecaster { preflight, policy: options.asked.policy.clone(), settings };
    let prospects = forecaster.prospects();
    if let Some(picture) = &options.picture {
        let svg = draw_prior(&forecaster.preflight.prior);
        svg.and_then(|svg| write_svg(picture, &svg)).map_err(CommandError::usage)?;
    }
    show(&options, &prospects);
    Ok(())
}

/// Limits the bandwidth to what the link carries.
fn limit_to_link(settings: &mut Settings, options: &PlanArgs) {
    let limit = &mut settings.requirements.max_bandwidth;
    *limit = match (*limit, options.to_rate) {
        (Some(limit), Some(carries)) if limit.0 > carries.0 => Some(carries),
        (limit, carries) => limit.or(carries),
    };
}

fn show(options: &PlanArgs, prospects: &Prospects) {
    if options.json {
        match serde_json::to_string(prospects) {
            Ok(text) => print_line(&text),
            Err(error) => {
                eprint_line(&format!("landfall: the plan cannot be written as JSON: {error}"))
            }
        }
        return;
    }
    // Standard output may be closed by now.
    drop(write!(anstream::stdout(), "{}", text::format_plan(options, prospects)));
    if let Some(picture) = &options.picture {
        print_line(&format!("The curve is in {}", picture.display()));
    }
}
