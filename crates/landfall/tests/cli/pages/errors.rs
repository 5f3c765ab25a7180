//! `docs/errors.md`: every refusal and failure that has a type, made from the types themselves.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use syn::{Attribute, Expr, ExprLit, Item, Lit, Meta, Visibility};

use super::{compare_or_write, root};

/// The crates whose errors a user may see, and what they are about. The laboratory is not among them.
const AREAS: [(&str, &str); 6] = [
    ("landfall", "Commands, hooks and the page"),
    ("migration", "One migration: policies by name, recordings, pictures"),
    ("qemu", "QEMU, control groups, the guardian"),
    ("core", "Settings, policies, units"),
    ("script", "Policies as scripts"),
    ("sim", "Scenarios"),
];

/// An error type.
struct ErrorType {
    name: String,
    file: String,
    about: String,
    /// What landfall says, and when.
    cases: Vec<(String, String)>,
}

#[test]
fn the_page_of_errors_is_that_of_the_types() {
    compare_or_write("errors.md", &page());
}

fn page() -> String {
    let mut page = "# What landfall refuses, and how it fails\n\n\
         Made from the error types by `crates/landfall/tests/cli/pages/errors.rs`. A name in angle brackets \
         stands for what landfall found. Exit statuses are in the [README](../README.md).\n"
        .to_owned();
    let mut count = 0;
    for (name, about) in AREAS {
        let mut files = sources(&root().join("crates").join(name).join("src"));
        files.sort();
        let types: Vec<ErrorType> = files.iter().flat_map(|file| error_types(file)).collect();
        count += types.len();
        let _ = write!(page, "\n## {about}\n");
        for ErrorType { name, file, about, cases } in types {
            let _ = write!(page, "\n### {name}\n\n{about} (`{file}`)\n\n");
            page += "| landfall says | when |\n|---|---|\n";
            for (says, when) in cases {
                let _ = writeln!(page, "| {says} | {when} |");
            }
        }
    }
    assert!(count > 25, "only {count} error types found");
    page
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let is_source = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("tests.rs")
    };
    let below = folders.iter().flat_map(|folder| sources(folder));
    files.into_iter().filter(is_source).chain(below).collect()
}

fn error_types(file: &Path) -> Vec<ErrorType> {
    let source = syn::parse_file(&fs::read_to_string(file).unwrap()).unwrap();
    let place = file.to_string_lossy().split_once("crates/").unwrap().1.to_owned();
    let place = place.split_once("../").map_or(place.clone(), |(_, place)| place.to_owned());
    let place = place.trim_start_matches("../").trim_start_matches("crates/").to_owned();
    let mut found = Vec::new();
    for item in source.items {
        let (name, attributes, cases, visibility) = match item {
            Item::Enum(item) => {
                let case = |variant: &syn::Variant| {
                    Some((message(&variant.attrs)?, first_sentence(&variant.attrs)))
                };
                let cases = item.variants.iter().filter_map(case).collect();
                (item.ident, item.attrs, cases, item.vis)
            }
            Item::Struct(item) => {
                let says = message(&item.attrs);
                let cases: Vec<_> =
                    says.map(|says| (says, "always".to_owned())).into_iter().collect();
                (item.ident, item.attrs, cases, item.vis)
            }
            _ => continue,
        };
        if is_error(&attributes)
            && !cases.is_empty()
            && !matches!(visibility, Visibility::Inherited)
        {
            let about = first_sentence(&attributes);
            found.push(ErrorType { name: name.to_string(), file: place.clone(), about, cases });
        }
    }
    found
}

/// Whether a type derives `thiserror::Error`.
fn is_error(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        Meta::List(list) if list.path.is_ident("derive") => {
            list.tokens.to_string().replace(' ', "").contains("thiserror::Error")
        }
        _ => false,
    })
}

/// The text of `#[error(...)]`, for a table; `None` where it is that of another error.
fn message(attributes: &[Attribute]) -> Option<String> {
    let attribute = attributes.iter().find(|attribute| attribute.path().is_ident("error"))?;
    let Meta::List(list) = &attribute.meta else { return None };
    let text: syn::LitStr = syn::parse2::<Arguments>(list.tokens.clone()).ok()?.0;
    let mut shown = String::new();
    let text = text.value().replace("{{", "\u{1}").replace("}}", "\u{2}");
    let mut rest = text.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        let (name, behind) = after.split_once('}').unwrap_or((after, ""));
        let name = name.split(':').next().unwrap_or_default();
        let is_name = name.starts_with(|letter: char| letter.is_alphabetic());
        let name = if is_name { name } else { "..." };
        shown += &format!("{before}<{name}>");
        rest = behind;
    }
    shown += rest;
    let shown = shown.replace('\u{1}', "{").replace('\u{2}', "}");
    // One that only passes another's text on says nothing of its own.
    let own = shown.replace("<...>", "").chars().any(char::is_alphabetic);
    own.then(|| shown.replace('|', "\\|").replace('<', "&lt;").replace('>', "&gt;"))
}

/// The format string of `error(...)`, without what follows.
struct Arguments(syn::LitStr);

impl syn::parse::Parse for Arguments {
    fn parse(input: syn::parse::ParseStream) -> syn::Result<Arguments> {
        let text = input.parse()?;
        input.parse::<proc_macro2::TokenStream>()?;
        Ok(Arguments(text))
    }
}

/// The first sentence of a doc comment.
fn first_sentence(attributes: &[Attribute]) -> String {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(pair) if pair.path.is_ident("doc") => match &pair.value {
            Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) => Some(text.value().trim().to_owned()),
            _ => None,
        },
        _ => None,
    });
    let paragraph: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let paragraph = paragraph.join(" ").replace('|', "\\|");
    match paragraph.split_once(". ") {
        Some((first, _)) => format!("{first}."),
        None => paragraph,
    }
}
