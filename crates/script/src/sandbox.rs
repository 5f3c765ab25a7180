//! The engine that scripts run in: arithmetic, text and maps, and nothing that reaches the world or
//! that takes long.
//!
//! Time is bounded without a clock, so that a script decides the same on a slow machine: by the number
//! of operations, and by data so small that no single operation takes long. (Of 8000 elements,
//! comparing two arrays took half a millisecond: 50 000 such operations are half a minute. Hence no
//! package of array functions, and arrays of a thousand elements at most.)
//!
//! Left out on purpose: modules, `eval`, the clock and `sleep` (they are in Rhai's core package),
//! output, and everything about functions as values, by which data could nest without a limit.

use rhai::packages::{
    ArithmeticPackage, BasicIteratorPackage, BasicMapPackage, BasicMathPackage, BasicStringPackage,
    LogicPackage, Package,
};
use rhai::{Array, Dynamic, Engine, EvalAltResult};

use crate::{decision_api, view_api};

/// Operations in one decision. A policy of a page takes some hundreds.
pub const OPERATIONS: u64 = 25_000;

/// Functions that call each other, deep.
const CALLS: usize = 16;

/// Expressions within expressions: at the top level, in functions.
const NESTING: (usize, usize) = (32, 24);

/// Elements of an array or a map, all that is nested in it included.
pub const ELEMENTS: usize = 1024;

/// Bytes of a text.
const TEXT: usize = 1024;

/// Variables at a time, and functions.
const NAMES: (usize, usize) = (256, 128);

/// What would reach beyond the sandbox, or make values of functions.
const DISABLED: [&str; 7] = ["eval", "Fn", "curry", "call", "print", "debug", "is_shared"];

/// The engine, with what a script may use.
pub fn engine() -> Engine {
    let mut engine = Engine::new_raw();
    for package in [
        ArithmeticPackage::new().as_shared_module(),
        LogicPackage::new().as_shared_module(),
        BasicMathPackage::new().as_shared_module(),
        BasicStringPackage::new().as_shared_module(),
        BasicIteratorPackage::new().as_shared_module(),
        BasicMapPackage::new().as_shared_module(),
    ] {
        engine.register_global_module(package);
    }
    engine
        .set_max_operations(OPERATIONS)
        .set_max_call_levels(CALLS)
        .set_max_expr_depths(NESTING.0, NESTING.1)
        .set_max_array_size(ELEMENTS)
        .set_max_map_size(ELEMENTS)
        .set_max_string_size(TEXT)
        .set_max_variables(NAMES.0)
        .set_max_functions(NAMES.1)
        .set_fail_on_invalid_map_property(true)
        .set_allow_anonymous_fn(false);
    for symbol in DISABLED {
        engine.disable_symbol(symbol);
    }
    arrays(&mut engine);
    view_api::register(&mut engine);
    decision_api::register(&mut engine);
    engine
}

/// The few things of arrays that a policy needs: they can be written, indexed, gone through, counted
/// and added to.
fn arrays(engine: &mut Engine) {
    engine.register_iterator::<Array>();
    engine.register_fn("len", |array: &mut Array| array.len() as i64);
    engine.register_get("len", |array: &mut Array| array.len() as i64);
    engine.register_fn("push", |array: &mut Array, item: Dynamic| {
        if array.len() >= ELEMENTS {
            return Err(format!("push: an array has at most {ELEMENTS} elements").into());
        }
        array.push(item);
        Ok::<(), Box<EvalAltResult>>(())
    });
}

/// A number, however it was written.
pub fn number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|whole| whole as f64))
}
