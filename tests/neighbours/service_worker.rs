//! A service worker that passes navigations on.

use serde_json::json;
use support::{Backend, FakeAuthgear};

use crate::browser::{application, Browser};

#[test]
fn a_navigation_that_a_service_worker_passes_on_is_redirected_to_log_in() {
    let (authgear, backend) = (FakeAuthgear::start(), Backend::start());
    let nginx = application(&authgear, &backend)
        .log_format("$request_uri $http_sec_fetch_mode $http_sec_fetch_dest $status")
        .server(
            "location = /worker.js {
               authgear off;
               types { text/javascript js; }
               default_type text/javascript;
               return 200 \"self.addEventListener('activate', e => e.waitUntil(clients.claim()));
                 self.addEventListener('fetch', e => e.respondWith(fetch(e.request)));\";
             }",
        )
        .start();
    let at = |path: &str| format!("http://{}{path}", nginx.addr());
    let browser = Browser::start();
    browser.go(&at("/public"));
    // A frame gets a status: a login page would not work in it.
    let framed = browser.run(
        "return await new Promise(done => {
           const frame = document.createElement('iframe');
           frame.onload = () => done(frame.contentDocument.body.innerText.includes('401'));
           frame.src = '/framed';
           document.body.append(frame);
         });",
    );
    assert_eq!(framed, json!(true));
    let controlled = browser.run(
        "const changed = new Promise(done => {
           navigator.serviceWorker.addEventListener('controllerchange', () => done(true));
         });
         await navigator.serviceWorker.register('/worker.js');
         return await changed;",
    );
    assert_eq!(controlled, json!(true));
    browser.go(&at("/page"));
    let alice = "\"x-authgear-user-id\",\"alice\"";
    let shown = support::eventually(support::DEADLINE, || browser.text().contains(alice));
    assert!(shown, "{} {}", browser.url(), nginx.access_log());
    assert!(nginx.access_log().contains("/page navigate empty 302"), "{}", nginx.access_log());
}
