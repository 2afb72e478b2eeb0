//! From figures to tables.
