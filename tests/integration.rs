//! Integration tests: one module per behaviour, each against a real nginx.

mod documented_setup;
mod support_selftest;
