//! Integration tests: one module per behaviour, each against a real nginx.

mod bodies;
mod breaker;
mod cache;
mod cache_workers;
mod clients;
mod config;
mod dns;
mod documented_setup;
mod examples;
mod inject;
mod internal_location;
mod joining;
mod keepalive;
mod late_strip;
mod outage;
mod outage_log;
mod project;
mod reload;
mod resolver_request;
mod site;
mod strip;
mod support_selftest;
mod tls;
mod variables;
mod verdicts;
