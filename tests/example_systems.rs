//! Examples with other systems beside nginx: proxies that ask for verdicts, backends that check
//! assertions, and a second host.

use support::{eventually, private_key, KeyType, Redis};

use super::*;

#[test]
fn the_forward_auth_example_works() {
    let public = Public::start(48);
    let nginx = run(|| {
        let roots = public.ca_file();
        example("forward-auth.conf", &[])
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
    });
    let root = User::named("root").roles(&["admin"]);
    for (user, statuses) in
        [(None, [401, 401, 404]), (Some(alice()), [200, 403, 404]), (Some(root), [200, 200, 404])]
    {
        let token = user.as_ref().map(|user| public.authgear.jwt(user));
        for (path, status) in ["/authz", "/authz/admin", "/other"].into_iter().zip(statuses) {
            let request = with_forged_identity(get(&nginx, path));
            let answer = token.iter().fold(request, |request, token| request.bearer(token)).send();
            assert_eq!(answer.status, status, "{path} {user:?}");
            let expected = user.as_ref().filter(|_| status == 200).map(identity_of);
            let mut told = answer.identity();
            told.retain(|(_, value)| !value.is_empty());
            assert_eq!(told, expected.unwrap_or_default(), "{path}");
        }
    }
}

#[test]
fn the_assertion_example_works() {
    let (public, backend) = (Public::start(49), Backend::start());
    let key = private_key(KeyType::Ed25519);
    let nginx = run(|| {
        let (roots, backend) = (public.ca_file(), backend.addr().to_string());
        let replace = [
            ("authgear_assertion     /etc/nginx/", "authgear_assertion %%DIR%%/"),
            ("127.0.0.1:8000", &backend),
        ];
        example("assertion.conf", &replace)
            .secret_file("assertion.pem", key.as_str())
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", roots.to_str().expect("a path"))
    });
    let keys = get(&nginx, "/.well-known/authgear-assertion-keys").send().json();
    assert_eq!(
        (&keys["keys"][0]["crv"], keys["keys"].as_array().map(Vec::len)),
        (&"Ed25519".into(), Some(1))
    );
    let request = get(&nginx, "/").header("X-Authgear-Assertion", FORGED);
    assert_eq!(request.send().status, 401);
    let echo = request.bearer(&public.authgear.jwt(&alice())).send().echo();
    let [jwt] = echo.all("x-authgear-assertion")[..] else { panic!("{echo:?}") };
    let claims =
        data_encoding::BASE64URL_NOPAD.decode(jwt.split('.').nth(1).expect("claims").as_bytes());
    let claims: serde_json::Value =
        serde_json::from_slice(&claims.expect("base64url")).expect("JSON");
    for (name, value) in [
        ("iss", "https://www.example.com"),
        ("aud", "https://orders.internal"),
        ("sub", "alice"),
        ("x-authgear-user-roles", "editor"),
    ] {
        assert_eq!(claims[name], value);
    }
}

#[test]
fn the_fleet_example_works() {
    const HOOK: &str = "0123456789abcdefghijABCDEFGHIJ_Z";
    let (public, backend, redis) = (Public::start(53), Backend::start(), Redis::start());
    let host = || {
        let replace = [
            ("redis://127.0.0.1:6379", redis.url()),
            ("/etc/nginx/authgear-fleet.secret;", "%%DIR%%/fleet.secret;".to_owned()),
            ("http://127.0.0.1:3000", format!("http://{}", backend.addr())),
            ("/etc/nginx/authgear-webhook.secret", "%%DIR%%/webhook.secret".to_owned()),
        ];
        let replace = replace.each_ref().map(|(from, to)| (*from, to.as_str()));
        example("fleet.conf", &replace)
            .secret_file("webhook.secret", HOOK)
            .secret_file("fleet.secret", crate::fleet::SECRET)
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", public.ca_file().to_str().expect("a path"))
    };
    let (a, b) = (run(host), run(host));
    let authgear = &public.authgear;
    let jwt = authgear.jwt(&alice());
    let (page, api) = (get(&b, "/").bearer(&jwt), get(&b, "/api/").bearer(&jwt));
    let serves = || page.send().status == 200 && api.send().status == 200;
    assert!(eventually(support::DEADLINE, serves), "{}", api.send().status);
    let before = authgear.hits();
    assert_eq!((page.send().status, authgear.hits()), (200, before));
    let purge = get(&a, "/authgear/purge?user=alice").method("POST");
    assert_eq!(purge.send().status, 204);
    let is_purged = || page.send().status == 200 && authgear.hits() > before;
    assert!(eventually(support::DEADLINE, is_purged));
    let event = crate::fleet::event("user.disabled", "alice", unix_now()).to_string();
    let signature = webhook_signature(HOOK.as_bytes(), event.as_bytes());
    let hook = get(&a, "/hooks/authgear").method("POST").body(event.as_bytes());
    assert_eq!(hook.header("x-authgear-body-signature", signature).send().status, 204);
    assert!(eventually(support::DEADLINE, || api.send().status == 401));
}

#[test]
fn the_fleet_mirror_example_works() {
    const SECRET: &str = "0123456789abcdefghijABCDEFGHIJ_Z";
    let (public, backend) = (Public::start(50), Backend::start());
    let ips = [own_ip(51), own_ip(52)].map(|ip| ip.to_string());
    let host = |own: &str, other: &str| {
        let replace = [
            ("listen 10.0.0.1:8081", format!("listen {own}:8081")),
            ("allow  10.0.0.2", "allow 127.0.0.1".to_owned()),
            ("10.0.0.2:8081", format!("{other}:8081")),
            ("127.0.0.1:8000", backend.addr().to_string()),
            ("/etc/nginx/authgear-webhook.secret", "%%DIR%%/webhook.secret".to_owned()),
        ];
        let replace = replace.each_ref().map(|(from, to)| (*from, to.as_str()));
        example("fleet-mirror.conf", &replace)
            .secret_file("webhook.secret", SECRET)
            .file("hosts", public.hosts.as_str())
            .mount("/etc/hosts", "hosts")
            .env("SSL_CERT_FILE", public.ca_file().to_str().expect("a path"))
    };
    let (a, b) = (run(|| host(&ips[0], &ips[1])), run(|| host(&ips[1], &ips[0])));
    let authgear = &public.authgear;
    let (alice, bob) = (authgear.jwt(&alice()), authgear.jwt(&User::named("bob")));
    let asks = |nginx: &Nginx, token: &str| {
        let before = authgear.hits();
        assert_eq!(get(nginx, "/").bearer(token).send().status, 200);
        authgear.hits() != before
    };
    let event = "{\"type\":\"user.profile.updated\",\"payload\":{\"user\":{\"id\":\"bob\"}}}";
    let signature = webhook_signature(SECRET.as_bytes(), event.as_bytes());
    let post = |nginx, target: &str| get(nginx, target).method("POST");
    let header = "x-authgear-body-signature";
    for (from, other) in [(&a, &b), (&b, &a)] {
        let hook = post(from, "/hooks/authgear").header(header, &signature).body(event);
        let origin = format!("http://{}", from.addr());
        let logout = post(from, "/logout/forget").bearer(&alice).header("Origin", origin);
        for (order, purged) in [
            (hook, [false, true]),
            (logout, [true, false]),
            (post(from, "/authgear/purge?user=alice"), [true, false]),
            (post(from, "/authgear/purge?all=1"), [true, true]),
        ] {
            [&alice, &bob].iter().for_each(|token| {
                asks(from, token);
                asks(other, token);
                assert!(!asks(other, token));
            });
            assert_eq!(order.send().status, 204, "{order:?}");
            let tokens = [&alice, &bob].into_iter().zip(purged);
            let (purged, kept): (Vec<_>, Vec<_>) = tokens.partition(|(_, purged)| *purged);
            for (token, _) in purged {
                assert!(asks(from, token), "{order:?}");
                // The answer does not wait for the mirror.
                assert!(eventually(support::DEADLINE, || asks(other, token)), "{order:?}");
            }
            assert!(!kept.iter().any(|(token, _)| asks(from, token) || asks(other, token)));
        }
        assert_eq!(post(from, "/mirror/b/authgear/purge?all=1").send().status, 404);
    }
    // The address for the other host is not for everybody.
    let inner: SocketAddr = format!("{}:8081", ips[0]).parse().expect("an address");
    let order = get(&inner, "/authgear/purge?all=1").method("POST").from_addr("127.0.0.2");
    assert_eq!(order.send().status, 403);
}
