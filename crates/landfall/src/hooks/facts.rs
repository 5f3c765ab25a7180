//! What a hook gets on its standard input, as JSON: what was asked for, what the probe found, how the
//! migration stands, how it ended.

use landfall_core::report::{Forecast, Report};
use landfall_core::requirements::{Aggression, Requirements};
use landfall_core::units::Bytes;
use landfall_migration::preflight::Preflight;
use landfall_qemu::driver::Decided;
use serde_json::{Value, json};

use super::HookPoint;
use crate::cli::MigrateArgs;

/// The facts as far as they are known by now.
pub struct Facts {
    source: String,
    destination: String,
    destination_qmp: Option<String>,
    policy: String,
    aggression: Aggression,
    requirements: Requirements,
    guest: Value,
    forecast: Option<Forecast>,
}

impl Facts {
    /// Takes what was asked for.
    pub fn of(options: &MigrateArgs, asked: &Requirements, aggression: Aggression) -> Facts {
        Facts {
            source: options.source.to_string(),
            destination: options.destination.clone(),
            destination_qmp: options.destination_qmp.as_ref().map(ToString::to_string),
            policy: options.asked.policy.name().to_owned(),
            aggression,
            requirements: asked.clone(),
            guest: Value::Null,
            forecast: None,
        }
    }

    /// Sets what was found out before the start.
    pub fn set_preflight(&mut self, preflight: &Preflight, forecast: Option<Forecast>) {
        let prior = &preflight.prior;
        self.guest = json!({
            "contents_bytes": prior.contents.map(|contents| contents.0),
            "vcpus": Some(preflight.vcpus).filter(|count| *count > 0),
            "link_bytes_per_second": prior.link.map(|link| link.0),
        });
        self.forecast = forecast;
    }

    /// Returns all facts at a point of the migration as JSON.
    pub fn to_json(
        &self,
        point: HookPoint,
        now: Option<&Decided>,
        report: Option<&Report>,
    ) -> String {
        let asked = &self.requirements;
        json!({
            "point": point.name(),
            "source": self.source,
            "destination": self.destination,
            "destination_qmp": self.destination_qmp,
            "policy": self.policy,
            "aggression": self.aggression,
            "requirements": {
                "max_bandwidth_bytes_per_second": asked.max_bandwidth.map(|rate| rate.0),
                "min_cpu_share": asked.min_cpu,
                "max_stall_s": asked.max_stall.as_secs_f64(),
                "max_time_s": asked.max_time.map(|time| time.as_secs_f64()),
                "give_way": asked.give_way.iter().map(ToString::to_string).collect::<Vec<_>>(),
            },
            "guest": self.guest,
            "forecast": self.forecast,
            "now": now.map(so_far),
            "report": report,
        })
        .to_string()
    }
}

fn so_far(decided: &Decided) -> Value {
    let view = &decided.observation.view;
    let Bytes(remaining) = view.remaining;
    json!({
        "elapsed_s": view.now.as_secs_f64(),
        "remaining_bytes": remaining,
        "blackout_if_shipped_s": view.downtime_if_shipped().map(|stall| stall.as_secs_f64()),
        "why": decided.observation.decision.reason,
    })
}
