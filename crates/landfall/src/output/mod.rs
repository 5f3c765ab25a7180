//! What the commands print. Words, tables and charts that the laboratory needs as well are in
//! `landfall-migration`.

pub mod report_text;
