//! Whether a policy can steer a migration, and would: asked before the start.

use crate::model::prior::Prior;
use crate::policy::{Needs, Policy, PreflightRefusal};
use crate::requirements::Settings;
use crate::telemetry::observer::Observer;
use crate::telemetry::view::{Levers, View};

/// Why a policy does not start.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum PolicyRefusal {
    /// It needs post-copy, and the operator does not allow it.
    #[error(
        "policy {policy} needs --post-copy allow: from its start the guest is lost if the link or \
         either host fails"
    )]
    PostCopyNotAllowed {
        /// Which policy.
        policy: String,
    },
    /// It holds vCPUs, and that cannot be done here.
    #[error("policy {policy} holds vCPUs, and here they cannot be held")]
    VcpusCannotBeHeld {
        /// Which policy.
        policy: String,
    },
    /// It would not start; the text names what would resolve it.
    #[error(transparent)]
    Preflight(#[from] PreflightRefusal),
}

/// Checks that a policy has what it needs.
///
/// # Errors
/// [`PolicyRefusal`]: what is missing.
pub fn check_needs(policy: &dyn Policy, levers: Levers) -> Result<Needs, PolicyRefusal> {
    let needs = policy.needs();
    if needs.post_copy && !levers.post_copy {
        return Err(PolicyRefusal::PostCopyNotAllowed { policy: policy.name().to_owned() });
    }
    if needs.quota && !levers.quota {
        return Err(PolicyRefusal::VcpusCannotBeHeld { policy: policy.name().to_owned() });
    }
    Ok(needs)
}

/// What a policy is shown before the start of a migration; `None` where too little is known of the
/// guest to show anything.
pub fn view_before_start(
    settings: &Settings,
    levers: Levers,
    prior: &Prior,
    vcpus: usize,
) -> Option<View> {
    let Settings { requirements, aggression } = settings.clone();
    let observer = Observer::new(requirements, aggression, levers, prior);
    Some(observer.view_before_start(prior.contents?, vcpus))
}

/// Asks a policy whether it would start, where anything is known by which it could tell.
///
/// # Errors
/// [`PolicyRefusal::Preflight`], with what would resolve it.
pub fn look_ahead(
    policy: &mut dyn Policy,
    settings: &Settings,
    levers: Levers,
    prior: &Prior,
    vcpus: usize,
) -> Result<(), PolicyRefusal> {
    match view_before_start(settings, levers, prior, vcpus) {
        Some(view) => Ok(policy.preflight(&view)?),
        None => Ok(()),
    }
}
