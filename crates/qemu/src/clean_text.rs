//! Makes text from outside harmless for a terminal.

use std::borrow::Cow;
use std::fmt::Write;

/// Returns a text with every character that a terminal would act on written out, as `\u{1b}`: control
/// characters but line feeds and tabs, and those that reverse the direction of writing. Guests, other
/// programs and compromised QEMUs choose the text of names and errors that root reads.
pub fn clean_text(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_harmful(character) {
            // Writing to a string cannot fail.
            true => _ = write!(clean, "{}", character.escape_unicode()),
            false => clean.push(character),
        }
    }
    Cow::Owned(clean)
}

fn is_harmful(character: char) -> bool {
    let is_layout = matches!(character, '\n' | '\t');
    (character.is_control() && !is_layout)
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn escape_sequences_and_reversed_text_are_written_out() {
        assert_eq!(clean_text("\u{1b}[2Jvm\u{7}"), "\\u{1b}[2Jvm\\u{7}");
        assert_eq!(clean_text("a\u{9b}31m\u{202e}b"), "a\\u{9b}31m\\u{202e}b");
        assert!(matches!(clean_text("Gäste, 5 µs\n\t"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn nothing_that_a_terminal_acts_on_is_left(text in any::<String>()) {
            prop_assert!(!clean_text(&text).chars().any(is_harmful));
        }
    }
}
