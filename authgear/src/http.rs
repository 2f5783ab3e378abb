//! HTTP between client and nginx: content negotiation, redirects and upgrades.

pub mod negotiation;
pub mod redirect;
pub mod upgrade;
pub mod websocket;
