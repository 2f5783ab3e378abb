//! Directives of a fleet: which configurations `nginx -t` refuses or warns of.

use support::{Builder, ConfigTest, Nginx, ServerIdentity};

const SECRET: &str = "the secret of a fleet, of 32 bytes at least";

/// A site in a fleet with these arguments, and with these lines in its location.
fn site(fleet: &str, location: &str) -> Builder {
    Nginx::builder()
        .secret_file("secret", format!("{SECRET}\n"))
        .secret_file("password", "of redis\n")
        .http(format!("authgear_fleet {fleet};"))
        .server(format!("location / {{ authgear https://127.0.0.1:1; {location} }}"))
}

fn check(fleet: &str) -> ConfigTest {
    site(fleet, "").check()
}

#[track_caller]
fn refused(test: &ConfigTest, says: &str) {
    let errors: Vec<_> = test.output.lines().filter(|line| line.contains("[emerg]")).collect();
    assert!(!test.ok && matches!(errors[..], [e] if e.contains(says)), "{says}\n{}", test.output);
}

#[track_caller]
fn accepted(fleet: &str) {
    let test = check(fleet);
    assert!(test.ok && !test.output.contains("[warn]"), "{fleet}\n{}", test.output);
}

#[test]
fn fleets_are_accepted() {
    for url in [
        "redis://127.0.0.1",
        "redis://10.0.0.5:6379",
        "redis://[::1]",
        "redis://[::1]:6380",
        "redis://localhost/",
        "rediss://127.0.0.1",
        "unix:/run/redis/redis.sock",
    ] {
        accepted(&format!("{url} secret=secret"));
    }
    for sentinels in
        ["redis://127.0.0.1", "redis://127.0.0.1,[::1]:5,localhost", "rediss://10.0.0.1"]
    {
        accepted(&format!("{sentinels} sentinel=mine secret=secret"));
    }
    accepted("redis://127.0.0.1 sentinel=mine sentinel_password=password secret=secret");
    let all = "user=nginx password=password prefix=a.b-c_1 db=3 timeout=1s ssl_verify=off";
    accepted(&format!("rediss://127.0.0.1:6380 secret=secret {all}"));
    accepted("redis://127.0.0.1 secret=secret password=password timeout=5ms db=0 cache=off");
    let shared = "redis://127.0.0.1 secret=secret cache=on";
    let warned = check(shared);
    let says = "\"cache=on\" of \"authgear_fleet\" without an \"authgear_cache_zone\"";
    assert!(warned.ok && warned.output.contains(says), "{}", warned.output);
    let fine = site(shared, "authgear_cache z;").http("authgear_cache_zone z:1m;").check();
    assert!(fine.ok && !fine.output.contains("[warn]"), "{}", fine.output);
}

#[test]
fn wrong_urls_are_refused() {
    for url in [
        "http://127.0.0.1",
        "redis:127.0.0.1",
        "redis://",
        "redis://127.0.0.1:0",
        "redis://127.0.0.1:x",
        "redis://127.0.0.1/3",
        "redis://127.0.0.1?db=3",
        "redis://300.1.1.1",
        "unix:relative",
        "unix:",
    ] {
        let says = format!(
            "invalid URL \"{url}\" in \"authgear_fleet\", it must be redis://HOST[:PORT], \
             rediss://HOST[:PORT] or unix:PATH in "
        );
        refused(&check(&format!("{url} secret=secret")), &says);
    }
    for url in ["redis://:hidden@127.0.0.1", "rediss://nginx:hidden@127.0.0.1"] {
        let test = check(&format!("{url} secret=secret"));
        let says = "\"authgear_fleet\" has a password in its URL, which \"nginx -T\" shows: use \
                    password=FILE in ";
        refused(&test, says);
        assert!(!test.output.contains("hidden"), "{}", test.output);
    }
}

#[test]
fn wrong_parameters_are_refused() {
    let url = "redis://127.0.0.1";
    let time = "in \"timeout\", it must be a time from 5ms to 1s in ";
    let name = "in \"prefix\", it must be 1 to 64 letters, digits, \"_\", \".\" and \"-\" in ";
    let long = "a".repeat(65);
    for (parameters, says) in [
        ("", "\"authgear_fleet\" has no \"secret=\" in "),
        ("secret=secret timeout=2s", &format!("invalid value \"2s\" {time}")),
        ("secret=secret timeout=4ms", &format!("invalid value \"4ms\" {time}")),
        ("secret=secret prefix=", &format!("invalid value \"\" {name}")),
        ("secret=secret prefix={a}", &format!("invalid value \"{{a}}\" {name}")),
        (&format!("secret=secret prefix={long}"), &format!("invalid value \"{long}\" {name}")),
        ("secret=secret db=-1", "invalid value \"-1\" in \"db\", it must be a number from 0"),
        ("secret=secret user=nginx", "\"user=\" without \"password=\" in \"authgear_fleet\" in "),
        ("secret=secret user= password=password", "in \"user\", it must be a name of 1 to 256"),
        ("secret=secret cach=off", "unknown parameter \"cach\" of \"authgear_fleet\" in "),
        (
            "secret=secret cache=1",
            "invalid value \"1\" in \"cache\" directive, it must be \"on\" or \"off\" in ",
        ),
        ("secret=secret on", "unknown parameter \"on\" of \"authgear_fleet\" in "),
        ("secret=secret ssl_verify=off", "\"ssl_verify=\" without \"rediss://\" in "),
        (
            "secret=secret ssl_trusted_certificate=secret",
            "\"ssl_trusted_certificate=\" without \"rediss://\" in ",
        ),
        (
            "secret=secret ssl_certificate=secret ssl_certificate_key=secret",
            "\"ssl_certificate=\" without \"rediss://\" in ",
        ),
        (
            "secret=secret sentinel_password=password",
            "\"sentinel_password=\" without \"sentinel=\" in \"authgear_fleet\" in ",
        ),
        ("secret=secret sentinel=a/b", "invalid value \"a/b\" in \"sentinel\", it must be 1 to 64"),
        ("secret=missing", "cannot read the secret file \""),
        ("secret=secret password=missing", "cannot read the password file \""),
        ("secret=secret secret=secret", "duplicate"),
    ] {
        // nginx wants quotes around a brace.
        let words = parameters.split(' ').filter(|word| !word.is_empty());
        let words: String = words.map(|word| format!(" \"{word}\"")).collect();
        refused(&check(&format!("{url}{words}")), says);
    }
    refused(&check("rediss://127.0.0.1 secret=secret ssl_verify=maybe"), "\"on\" or \"off\"");
    for (parameters, says) in [
        ("ssl_certificate=a", "\"ssl_certificate=\" without \"ssl_certificate_key=\" in "),
        ("ssl_certificate_key=a", "\"ssl_certificate_key=\" without \"ssl_certificate=\" in "),
        ("ssl_certificate=", "invalid value \"\" in \"ssl_certificate\", it must be the name of"),
        ("ssl_certificate=missing ssl_certificate_key=secret", "cannot load certificate \""),
        ("ssl_certificate=secret ssl_certificate_key=secret", "cannot load certificate \""),
    ] {
        refused(&check(&format!("rediss://127.0.0.1 secret=secret {parameters}")), says);
    }
    for sentinels in ["redis://", "redis://127.0.0.1,"] {
        let test = check(&format!("{sentinels} sentinel=mine secret=secret"));
        refused(&test, &format!("invalid URL \"{sentinels}\" in \"authgear_fleet\""));
    }
    let many = format!("redis://{}", ["[::1]"; 17].join(","));
    let test = check(&format!("{many} sentinel=mine secret=secret"));
    refused(&test, "of \"authgear_fleet\", 16 at most in ");
    let test = check("redis://127.0.0.1,127.0.0.2 secret=secret");
    refused(&test, "several hosts in \"redis://127.0.0.1,127.0.0.2\" of \"authgear_fleet\" without \"sentinel=\" in ");
    let by_path = check("unix:/run/redis.sock sentinel=mine secret=secret");
    refused(&by_path, "\"sentinel=\" with \"unix:\" in \"authgear_fleet\" in ");
    let twice = site("redis://127.0.0.1 secret=secret", "");
    let twice = twice.http("authgear_fleet redis://127.0.0.1 secret=secret;").check();
    refused(&twice, "\"authgear_fleet\" directive is duplicate in ");
}

/// A key that is encrypted with the password "x", and stands for nothing.
const LOCKED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHrMFYGCSqGSIb3DQEFDTBJMCgGCSqGSIb3DQEFDDAbBAg8O1fJCesnQQIBCjAM
BggqhkiG9w0CCQUAMB0GCWCGSAFlAwQBKgQQW7MwN5W2KxXosG4lgA3ZEwSBkA/g
KJGQTB3THGDBtqfQH/tcjo8wNalgBj0Jwoy/VIfSDLyrHKlHFn5SJLlIpb2hjMfT
6JE8x0vS2vcxPx/G4Rs2qA8DRzlBir/Pub99HmWDn5D6n97DU94ebnSnTnDGOHK4
CpLAlvrZKFvIe6m8KblPQLk0fTt9rMiNEMtO4NjMnUtTXqL5JkUrajpCIy+v/g==
-----END ENCRYPTED PRIVATE KEY-----
";

#[test]
fn a_key_with_a_password_is_refused_and_asked_for_nowhere() {
    let identity = ServerIdentity::self_signed(&["localhost"]);
    let tls = "ssl_certificate=cert.pem ssl_certificate_key=locked.pem";
    let test = site(&format!("rediss://127.0.0.1 secret=secret {tls}"), "")
        .secret_file("cert.pem", identity.cert_pem)
        .secret_file("locked.pem", LOCKED)
        .check();
    refused(&test, "cannot load certificate key \"");
    assert!(!test.output.contains("pass phrase"), "{}", test.output);
}

#[test]
fn wrong_secrets_are_refused() {
    for (secret, says) in [
        (String::new(), "it has no secret"),
        (format!("{SECRET}\nshort\n"), "line 2 has 5 bytes, it must have 32 at least"),
        (format!("{SECRET}\n{SECRET}\n"), "it has the same secret twice, in line 1 and line 2"),
    ] {
        let test = site("redis://127.0.0.1 secret=secret", "").secret_file("secret", secret);
        let test = test.check();
        refused(&test, &format!("/secret\": {says} in "));
        assert!(test.output.contains("invalid secret file \""), "{}", test.output);
        assert!(!test.output.contains(SECRET), "{}", test.output);
    }
    let password = site("redis://127.0.0.1 secret=secret password=password", "");
    let password = password.secret_file("password", "\n").check();
    refused(&password, "/password\": it must hold from 1 to 1024 bytes in ");
}

#[test]
fn doubtful_fleets_are_warned_of() {
    let fleet = "redis://127.0.0.1 secret=secret";
    let open = site("redis://127.0.0.1 secret=open", "").file("open", SECRET).check();
    let clear = check("redis://203.0.113.5 secret=secret");
    let unused = Nginx::builder()
        .secret_file("secret", SECRET)
        .http(format!("authgear_fleet {fleet};"))
        .server("location / { }")
        .check();
    for (test, says) in [
        (open, "/open\" can be read by everybody (mode "),
        (clear, "\"authgear_fleet\" in clear to \"203.0.113.5\": use rediss:// in "),
        (unused, "\"authgear_fleet\" is never used in "),
    ] {
        let warnings: Vec<_> = test.output.lines().filter(|line| line.contains("[warn]")).collect();
        let warned = matches!(warnings[..], [line] if line.contains(says));
        assert!(test.ok && warned, "{says}\n{}", test.output);
    }
}

#[test]
fn the_treatment_while_cut_off_is_checked() {
    let fleet = "redis://127.0.0.1 secret=secret";
    for words in ["serve", "ask", "ask after=2s", "ask after=1d"] {
        let test = site(fleet, &format!("authgear_fleet_cut_off {words};")).check();
        assert!(test.ok && !test.output.contains("[warn]"), "{words}\n{}", test.output);
    }
    for (words, says) in [
        ("off", "invalid value \"off\" in \"authgear_fleet_cut_off\", it must be \"serve\", or"),
        ("serve after=5s", "invalid value \"serve after=5s\" in \"authgear_fleet_cut_off\""),
        ("ask after=1s", "invalid value \"after=1s\" in \"authgear_fleet_cut_off\", it must be"),
        ("ask 5s", "invalid value \"5s\" in \"authgear_fleet_cut_off\", it must be after="),
    ] {
        refused(&site(fleet, &format!("authgear_fleet_cut_off {words};")).check(), says);
    }
    let alone = Nginx::builder()
        .server("location / { authgear https://127.0.0.1:1; authgear_fleet_cut_off ask; }")
        .check();
    refused(&alone, "\"authgear_fleet_cut_off\" without \"authgear_fleet\" in ");
}
