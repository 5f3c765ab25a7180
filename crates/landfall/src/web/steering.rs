//! Changes and cancels a running migration, by asking the landfall that steers it over its control socket.

use std::collections::BTreeMap;
use std::io;

use landfall_core::requirements::{Setting, SettingError, SettingSpec, Settings};
use landfall_migration::progress::progress_text;
use landfall_qemu::control::client::{self, ControlClient};
use landfall_qemu::control::{ClientError, ControlAnswer, ControlRequest, SteeredMigration};

use super::migrations::RecordedMigration;
use super::pages::guests_page::ActiveMigration;

/// Why a running migration is not changed or not cancelled.
#[derive(Debug, thiserror::Error)]
pub enum SteeringError {
    /// No landfall of this page steers it, or not any more.
    #[error(
        "{name} cannot be changed or cancelled here: it is over, or another program started it; reload \
         its page to see how it ended, or run `landfall set` to find what is being steered"
    )]
    Over {
        /// The migration.
        name: String,
    },
    /// The landfall that steers it does not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A setting is not valid.
    #[error("{0}. Nothing was changed")]
    Setting(#[from] SettingError),
    /// The landfall that steers it refuses the change.
    #[error("{reason}. Nothing was changed")]
    Refused {
        /// Why, and what to do.
        reason: String,
    },
    /// The landfall that steers it cannot be interrupted.
    #[error(
        "the migration was not cancelled: cannot send SIGINT to landfall (process {pid}): {source}; \
         cancel it as the user who started it, by `kill -INT {pid}`"
    )]
    Signal {
        /// Its process.
        pid: i32,
        /// Why not.
        source: io::Error,
    },
}

/// Cancels a migration: over the control socket, or by a signal to the process before that listens.
///
/// # Errors
/// [`SteeringError::Over`], [`SteeringError::Signal`].
pub async fn cancel_migration(migration: &RecordedMigration) -> Result<(), SteeringError> {
    if !migration.is_running() {
        return Err(SteeringError::Over { name: migration.name.clone() });
    }
    if let Ok((mut landfall, _)) = find_steering_landfall(migration).await
        && let Ok(ControlAnswer::Cancelling) = landfall.send_request(&ControlRequest::Cancel).await
    {
        return Ok(());
    }
    migration.interrupt()
}

/// Returns all migrations that a landfall of this user steers, no matter who started it.
pub async fn list_steered_migrations() -> Vec<ActiveMigration> {
    let all = client::list_migrations().await.unwrap_or_default();
    let active = |(_, steered): (ControlClient, SteeredMigration)| ActiveMigration {
        source: steered.guest.source.to_string(),
        name: None,
        progress: steered.progress.as_ref().map(progress_text),
    };
    all.into_iter().map(active).collect()
}

/// Returns the settings in force: as the landfall that steers it says, else as recorded, else as they were
/// at the start.
pub async fn settings_in_force(
    migration: &RecordedMigration,
    recorded: Option<&Settings>,
) -> Settings {
    match find_steering_landfall(migration).await {
        Ok((_, steered)) => steered.settings,
        Err(_) => {
            let at_start = migration.start_note.as_ref().map(|note| &note.settings);
            recorded.or(at_start).cloned().unwrap_or_default()
        }
    }
}

/// Puts those fields of a form in force that differ from the settings in force.
///
/// # Errors
/// [`SteeringError`].
pub async fn change_settings(
    migration: &RecordedMigration,
    fields: &[(String, String)],
) -> Result<(), SteeringError> {
    let (mut landfall, steered) = find_steering_landfall(migration).await?;
    let settings = changed_settings(&steered.settings, fields)?;
    if settings.is_empty() {
        return Ok(());
    }
    match landfall.send_request(&ControlRequest::Set { settings }).await? {
        ControlAnswer::Refused { reason } => Err(SteeringError::Refused { reason }),
        _ => Ok(()),
    }
}

/// Connects to the landfall that steers a migration of this page.
async fn find_steering_landfall(
    migration: &RecordedMigration,
) -> Result<(ControlClient, SteeredMigration), SteeringError> {
    let note = migration.start_note.as_ref().filter(|_| migration.is_running());
    let note = note.ok_or_else(|| SteeringError::Over { name: migration.name.clone() })?;
    Ok(client::find_migration(&note.source).await?)
}

/// Returns the settings that differ, by name. An empty field removes a limit that may be absent.
fn changed_settings(
    now: &Settings,
    fields: &[(String, String)],
) -> Result<BTreeMap<String, String>, SettingError> {
    let mut wanted = now.clone();
    for (name, text) in fields.iter().filter(|(name, _)| SettingSpec::find(name).is_ok()) {
        let text = if text.trim().is_empty() { "none" } else { text };
        wanted.set(name, text)?;
    }
    let by_name = |setting: Setting| (setting.name().to_owned(), setting.text());
    Ok(wanted.changed_from(now).map(by_name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn only_settings_that_differ_are_changed() {
        let mut now = Settings::default();
        now.set("max-time", "90s").unwrap();
        let form =
            fields(&[("max-stall", "300ms"), ("max-time", ""), ("min-cpu", "20%"), ("to", "x")]);
        let changed = changed_settings(&now, &form).unwrap();
        let expected = [("max-time", "none"), ("min-cpu", "20%")];
        assert_eq!(changed.into_iter().collect::<Vec<_>>(), fields(&expected));
    }

    #[test]
    fn a_setting_that_is_not_valid_is_named_with_the_remedy() {
        for (name, text) in [("max-stall", "300"), ("max-stall", ""), ("aggression", "2")] {
            let error = changed_settings(&Settings::default(), &fields(&[(name, text)]));
            let error = SteeringError::from(error.unwrap_err()).to_string();
            assert!(error.contains(name) && error.contains("Nothing was changed"), "{error}");
        }
    }
}
