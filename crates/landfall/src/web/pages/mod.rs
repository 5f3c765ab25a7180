//! The pages, as HTML: a file for each, the frame that they share, and the words for what they show.

pub mod guest_page;
pub mod guests_page;
pub mod history_page;
mod labels;
pub mod layout;
pub mod migration_page;
pub mod what_if_page;
