//! `demo --serve`: the demo Authgear alone, at a given address, for `packaging/compose/demo.yaml`
//! and `fleet.yaml`.

use std::io;

use support::{FakeAuthgear, User};

/// Where the demo Authgear listens, and the origins that browsers see.
#[derive(Debug)]
pub struct Serve {
    /// Address to listen on.
    pub listen: String,
    /// Origin of Authgear for browsers.
    pub origin: String,
    /// Origins of the site, which a login returns to: those of its hosts, if they have their own.
    pub sites: Vec<String>,
}

/// Serves until Ctrl-C or the end of its container. Each user has a session with the user's name as
/// its cookie.
pub fn serve(settings: &Serve) -> io::Result<()> {
    let authgear =
        FakeAuthgear::builder().listen(&settings.listen).origin(&settings.origin).start();
    for name in ["alice", "bob", "carol"] {
        let user = authgear.add_user(User::named(name));
        authgear.add_session(name, &user);
    }
    let uris = |site| ["/_authgear/callback", "/"].map(|path| format!("{site}{path}"));
    let all: Vec<_> = settings.sites.iter().flat_map(uris).collect();
    authgear.register("demo", &all);
    println!("Authgear (a demo of it) listens on {}", settings.listen);
    for site in &settings.sites {
        println!("try: curl -b session=alice {site}/");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = end.recv() => Ok(()),
        }
    })
}
