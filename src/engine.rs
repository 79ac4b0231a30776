//! What bytes mean: names (`file`), blocks (`volume`), records (`tape`). Siblings are strangers.

pub mod file;
pub mod tape;
pub mod volume;
