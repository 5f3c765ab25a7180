//! Settings as a map of names and texts: a TOML file, JSON of the page and of the control socket.
//!
//! ```toml
//! max-bandwidth = "1Gbit/s"
//! min-cpu = "20%"
//! max-stall = "300ms"
//! max-time = "2min"
//! aggression = 0.5
//! give-way = ["max-time", "max-stall"]
//! ```

use std::fmt;

use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::setting_text::NONE;
use super::settings::{Setting, Settings};

impl Serialize for Setting {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut map = to.serialize_map(Some(1))?;
        map.serialize_entry(self.name(), &self.text())?;
        map.end()
    }
}

/// As a map of names and texts, all of them.
impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(self.all().iter().map(|setting| (setting.name(), setting.text())))
    }
}

/// From a map of names and texts; what is not in it has its default.
impl<'de> Deserialize<'de> for Settings {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Settings, D::Error> {
        from.deserialize_map(SettingsVisitor)
    }
}

/// Reads [`Settings`] from a map.
struct SettingsVisitor;

impl<'de> Visitor<'de> for SettingsVisitor {
    type Value = Settings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("settings by name, such as max-stall = \"300ms\"")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Settings, A::Error> {
        let mut settings = Settings::default();
        while let Some((name, TypedText(text))) = map.next_entry::<String, TypedText>()? {
            settings.set(&name, &text).map_err(serde::de::Error::custom)?;
        }
        Ok(settings)
    }
}

/// What was typed, as a text. A number without quotes and a list are written out.
struct TypedText(String);

impl<'de> Deserialize<'de> for TypedText {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<TypedText, D::Error> {
        from.deserialize_any(TypedTextVisitor).map(TypedText)
    }
}

/// Reads a [`TypedText`].
struct TypedTextVisitor;

impl<'de> Visitor<'de> for TypedTextVisitor {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text such as \"300ms\", a number, or a list of names")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_f64<E>(self, number: f64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok(NONE.to_owned())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut names: A) -> Result<String, A::Error> {
        let mut list: Vec<String> = Vec::new();
        while let Some(name) = names.next_element()? {
            list.push(name);
        }
        Ok(list.join(","))
    }
}
