//! The dashboard's pages of a made-up fleet, against files of `fixtures/ui` (`EBBTIDE_BLESS=1` writes them anew), and
//! what holds for all answers.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode};
use axum::{Extension, Router};
use ebbtide_fleet::ingest::Peer;
use ebbtide_fleet::query::{Order, Queries, QueryError, Visitor};
use ebbtide_fleet::ui::{self, Dashboard, MAX_LIVE};
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use ebbtide_runtime::tasks::Tasks;
use http_body_util::BodyExt;
use made_up::plans::MadeUpPlans;
use made_up::{MadeUp, then};
use tower::ServiceExt;

mod made_up;

/// A minute in steps of a second, of which the files stay short.
const MINUTE: &str = "from=2026-05-12T13:34:30Z&until=2026-05-12T13:35:30Z";

fn router(queries: Arc<dyn Queries>, tasks: &Tasks) -> Router {
    planned(queries, MadeUpPlans::new(), tasks)
}

fn planned(queries: Arc<dyn Queries>, plans: MadeUpPlans, tasks: &Tasks) -> Router {
    let plans = Arc::new(plans);
    let control = Arc::new(made_up::control::MadeUpDeeds);
    let orders = Arc::new(made_up::control::Desk::default());
    ui::router(Dashboard { queries, plans, control, orders, version: "0.1.0", clock: then, stop: tasks.shutdown() })
}

fn fleet(empty: bool) -> Arc<MadeUp> {
    Arc::new(MadeUp { clock: then, empty: empty.into() })
}

async fn ask(router: &Router, path: &str) -> Response<Body> {
    router.clone().oneshot(Request::get(path).body(Body::empty()).unwrap()).await.unwrap()
}

async fn text(answer: Response<Body>) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The next server-sent event; `None` at the end.
async fn event(body: &mut Body) -> Option<serde_json::Value> {
    let bytes = body.frame().await?.unwrap().into_data().unwrap();
    let text = std::str::from_utf8(&bytes).unwrap();
    Some(serde_json::from_str(text.strip_prefix("data: ").unwrap().trim_end()).unwrap())
}

/// Each tag on a line of its own, and addresses of assets without what changes with their content.
fn legible(page: &str) -> String {
    let mut out = String::new();
    for (i, part) in page.replace("><", ">\n<").split("/assets/").enumerate() {
        if i == 0 {
            out.push_str(part);
        } else {
            let (name, rest) = part.split_once('"').unwrap();
            let (stem, ending) = (name.split('-').next().unwrap(), name.rsplit('.').next().unwrap());
            out.push_str(&format!("/assets/{stem}-HASH.{ending}\"{rest}"));
        }
    }
    out + "\n"
}

#[tokio::test]
async fn pages_look_like_this() {
    let tasks = Tasks::new();
    let (full, empty) = (router(fleet(false), &tasks), router(fleet(true), &tasks));
    let (desk, _) = attended(Role::Admin, &tasks);
    let unplanned = planned(fleet(false), MadeUpPlans(None), &tasks);
    let pages = [
        ("fleet", &full, format!("/?{MINUTE}")),
        ("fleet-table", &full, format!("/?{MINUTE}&view=table")),
        ("fleet-empty", &empty, "/".to_owned()),
        ("node", &full, format!("/node/edge1?{MINUTE}")),
        ("node-stale", &full, format!("/node/ru2?{MINUTE}")),
        ("node-refused", &full, format!("/node/ru3?{MINUTE}")),
        ("workloads", &full, format!("/workloads?by=app&q=n&{MINUTE}")),
        ("workloads-empty", &full, "/workloads?by=vm&range=7d".to_owned()),
        ("plan", &full, "/plan".to_owned()),
        ("plan-pool", &full, "/plan?id=1&pool=edge".to_owned()),
        ("no-plan", &full, "/plan?id=99".to_owned()),
        ("plan-empty", &unplanned, "/plan".to_owned()),
        ("operations", &full, "/operations".to_owned()),
        ("operation", &full, "/operations?id=7".to_owned()),
        ("no-operation", &full, "/operations?id=99".to_owned()),
        ("operations-orders", &desk, "/operations".to_owned()),
        ("order", &desk, "/order/power-off?node=edge%3Cb%3E".to_owned()),
        ("order-capacity", &desk, "/order/capacity?node=edge1".to_owned()),
        ("no-order", &full, "/order/power-off?node=edge1".to_owned()),
        ("status", &full, "/status".to_owned()),
        ("about", &full, "/about".to_owned()),
        ("nowhere", &full, "/nowhere".to_owned()),
        ("no-node", &full, "/node/edge%3Cb%3E".to_owned()),
        ("no-range", &full, "/?range=2y".to_owned()),
    ];
    let mut different = Vec::new();
    for (name, router, path) in pages {
        let page = legible(&text(ask(router, &path).await).await);
        let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/ui/{name}.html"));
        if std::env::var_os("EBBTIDE_BLESS").is_some() {
            std::fs::write(&file, &page).unwrap();
        }
        let wanted = std::fs::read_to_string(&file).unwrap_or_default();
        if wanted != page {
            let line = wanted.lines().zip(page.lines()).position(|(a, b)| a != b).unwrap_or(0);
            different.push(format!("{name}.html line {}: {:?}", line + 1, page.lines().nth(line)));
        }
    }
    assert!(
        different.is_empty(),
        "after a change on purpose: EBBTIDE_BLESS=1, then read the difference\n{different:#?}"
    );
}

#[tokio::test]
async fn nothing_from_outside_gets_into_a_page_as_markup() {
    let tasks = Tasks::new();
    let router = router(fleet(false), &tasks);
    for path in [
        "/node/edge1",
        "/workloads?by=pod",
        "/workloads?by=app",
        "/workloads?q=%3Cscript%3Ealert(1)%3C%2Fscript%3E%22onfocus%3D",
        "/workloads?by=%3Cscript%3E",
        "/?range=%3Cscript%3E%22",
        "/node/%3Cscript%3E",
        "/status",
    ] {
        let page = text(ask(&router, path).await).await;
        assert!(page.contains("&lt;"), "{path} shows what it was told");
        for bad in ["<script>", "<b>bad", "<img", "\"onfocus", " style=", " onerror=\""] {
            assert!(!page.contains(bad), "{path}: {bad}");
        }
        assert_eq!(page.matches("<script").count(), 1, "{path}: only the module");
    }
    let node = ask(&router, "/live?node=edge1").await;
    let told = event(&mut node.into_body()).await.unwrap();
    assert!(told["set"].as_object().unwrap().keys().any(|key| key.contains("<script>")), "as data, not as markup");
}

#[tokio::test]
async fn each_answer_is_guarded_and_assets_may_be_kept() {
    let tasks = Tasks::new();
    let router = router(fleet(false), &tasks);
    let page = text(ask(&router, "/").await).await;
    let asset = |from: &str| {
        let at = page.find(from).unwrap();
        page[at..].split('"').next().unwrap().to_owned()
    };
    let (sheet, script) = (asset("/assets/style-"), asset("/assets/live-"));
    for (path, status, kind) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/nowhere", 404, "text/html; charset=utf-8"),
        ("/node/none", 404, "text/html; charset=utf-8"),
        ("/?from=7&until=3", 400, "text/html; charset=utf-8"),
        ("/assets/style.css", 404, "text/html; charset=utf-8"),
        (&sheet, 200, "text/css; charset=utf-8"),
        (&script, 200, "text/javascript; charset=utf-8"),
        ("/live", 200, "text/event-stream"),
        ("/live?node=none", 404, "text/html; charset=utf-8"),
    ] {
        let answer = ask(&router, path).await;
        let header = |name: &str| answer.headers().get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!((answer.status().as_u16(), header("content-type").as_str()), (status, kind), "{path}");
        assert!(
            header("content-security-policy").starts_with("default-src 'none'; style-src 'self'; script-src 'self';")
        );
        assert_eq!(header("x-content-type-options"), "nosniff");
        assert_eq!(header("referrer-policy"), "same-origin");
        assert_eq!(
            header("cache-control").contains("immutable"),
            path.starts_with("/assets/") && status == 200,
            "{path}"
        );
    }
    let post = Request::builder().method(Method::POST).uri("/").body(Body::empty()).unwrap();
    assert_eq!(router.clone().oneshot(post).await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
}

/// The dashboard as somebody with a role sees it, and what they order.
fn attended(role: Role, tasks: &Tasks) -> (Router, Arc<made_up::control::Desk>) {
    let desk = Arc::new(made_up::control::Desk::default());
    let (queries, plans) = (fleet(false), Arc::new(MadeUpPlans::new()));
    let (control, orders) = (Arc::new(made_up::control::MadeUpDeeds), Arc::clone(&desk));
    let router = ui::router(Dashboard {
        queries,
        plans,
        control,
        orders,
        version: "0.1.0",
        clock: then,
        stop: tasks.shutdown(),
    });
    let visitor = Visitor { name: "ada".to_owned(), role, peer: Peer::default() };
    (router.layer(Extension(visitor)), desk)
}

/// Sends a form as a browser does.
async fn send(router: &Router, path: &str, form: &str, origin: &str) -> Response<Body> {
    let request = Request::post(path)
        .header("host", "localhost:9885")
        .header("origin", origin)
        .header("content-type", "application/x-www-form-urlencoded");
    router.clone().oneshot(request.body(Body::from(form.to_owned())).unwrap()).await.unwrap()
}

const HERE: &str = "http://localhost:9885";

#[tokio::test]
async fn orders_are_given_by_those_whose_role_allows_it_and_from_here_only() {
    let tasks = Tasks::new();
    let lock = ("/order/lock", "node=edge1&why=fan");
    let auto = ("/order/mode", "pool=edge&mode=auto");
    for (role, (path, form), origin, status, noted) in [
        (Role::Operator, lock, HERE, 303, true),
        (Role::Operator, lock, "http://evil.example", 403, false),
        (Role::Operator, lock, "null", 403, false),
        (Role::Viewer, lock, HERE, 403, false),
        (Role::Operator, auto, HERE, 403, false),
        (Role::Admin, auto, HERE, 303, true),
        (Role::Admin, ("/order/mode", "pool=edge&mode=reckless"), HERE, 400, false),
        (Role::Admin, ("/order/explode", "node=edge1"), HERE, 400, false),
        (Role::Admin, ("/order/capacity", "node=edge1&cpu=two"), HERE, 400, false),
        (Role::Admin, ("/order/lock", "node=edge1&force=yes"), HERE, 400, false),
        (Role::Operator, ("/order/power-off", "node=nowhere"), HERE, 404, false),
        (Role::Operator, ("/order/approve", "id=3"), HERE, 409, false),
    ] {
        let (router, desk) = attended(role, &tasks);
        let answer = send(&router, path, form, origin).await;
        assert_eq!(answer.status().as_u16(), status, "{role} {path} {form} {origin}");
        assert_eq!(!desk.0.lock().unwrap().is_empty(), noted, "{role} {path} {form} {origin}");
        // the page asks before; who may not order isn't shown a form
        let asked = ask(&router, &format!("{path}?{form}")).await.status().as_u16();
        let looks = if status == 303 || role >= Role::Operator && path != "/order/mode" { 200 } else { status };
        assert!(asked == looks || status == 400, "{path}: {asked}");
        assert_eq!(desk.0.lock().unwrap().len(), usize::from(noted), "looking orders nothing");
    }
    let (router, desk) = attended(Role::Operator, &tasks);
    let long = format!("node=edge1&why={}", "x".repeat(100_000));
    assert!(send(&router, "/order/lock", &long, HERE).await.status().is_client_error());
    let answer = send(&router, "/order/capacity", "node=edge1&cpu=2.5&memory=&hours=1.5&why=busy", HERE).await;
    assert_eq!(answer.headers()["location"], "/operations?id=7");
    let wanted = Order::SetCapacity {
        node: "edge1".to_owned(),
        cpu_milli: Some(2500),
        memory: None,
        for_ms: 5_400_000,
        why: "busy".to_owned(),
    };
    assert_eq!(*desk.0.lock().unwrap(), [("ada".to_owned(), wanted)]);
}

#[tokio::test]
async fn only_what_a_visitor_may_order_is_offered() {
    let tasks = Tasks::new();
    for (role, on_operations, on_node) in
        [(Role::Viewer, false, false), (Role::Operator, true, true), (Role::Admin, true, true)]
    {
        let (router, _) = attended(role, &tasks);
        let operations = text(ask(&router, "/operations").await).await;
        assert_eq!(operations.contains("/order/reorchestrate"), on_operations, "{role}");
        assert_eq!(operations.contains("/order/mode"), role == Role::Admin, "{role}");
        assert_eq!(text(ask(&router, "/node/edge1").await).await.contains("/order/power-off"), on_node, "{role}");
        assert_eq!(text(ask(&router, "/plan").await).await.contains("/order/approve"), on_node, "{role}");
        assert_eq!(text(ask(&router, "/operations?id=7").await).await.contains("/order/cancel"), on_node, "{role}");
    }
}

/// Counts what is asked, and can fail to read the store.
struct Counting {
    fleet: Arc<MadeUp>,
    totals: AtomicUsize,
    broken: bool,
}

impl Queries for Counting {
    fn nodes(&self, request: &v1::ListNodesRequest) -> v1::ListNodesResponse {
        self.fleet.nodes(request)
    }
    fn node(&self, request: &v1::GetNodeRequest) -> Result<v1::GetNodeResponse, QueryError> {
        self.fleet.node(request)
    }
    fn workloads(&self, request: &v1::ListWorkloadsRequest) -> Result<v1::ListWorkloadsResponse, QueryError> {
        self.fleet.workloads(request)
    }
    fn energy(&self, request: &v1::QueryEnergyRequest) -> Result<v1::QueryEnergyResponse, QueryError> {
        if self.broken { Err(QueryError::Store("disk I/O error".into())) } else { self.fleet.energy(request) }
    }
    fn zones(&self, request: &v1::ListZonesRequest) -> v1::ListZonesResponse {
        self.fleet.zones(request)
    }
    fn totals(&self) -> v1::Totals {
        self.totals.fetch_add(1, Ordering::Relaxed);
        self.fleet.totals()
    }
    fn status(&self) -> v1::GetStatusResponse {
        self.fleet.status()
    }
}

#[tokio::test]
async fn all_who_watch_share_a_question_and_there_is_an_end_to_how_many() {
    let mut tasks = Tasks::new();
    let queries = Arc::new(Counting { fleet: fleet(false), totals: AtomicUsize::new(0), broken: false });
    let router = router(Arc::<Counting>::clone(&queries), &tasks);
    let mut watching = Vec::new();
    for _ in 0..MAX_LIVE {
        let mut body = ask(&router, "/live").await.into_body();
        let told = event(&mut body).await.unwrap();
        assert!(told["set"]["w/edge1"][0].as_str().unwrap().ends_with(" W"), "{told}");
        assert_eq!(told["mw"]["win-build"], serde_json::Value::Null, "who is gone is not known");
        watching.push(body);
    }
    assert_eq!(queries.totals.load(Ordering::Relaxed), 1, "the clock stands still: one picture for all");

    let full = ask(&router, "/live").await;
    assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(full.headers().contains_key("retry-after"));
    watching.pop();
    assert_eq!(ask(&router, "/live?node=edge1").await.status(), StatusCode::OK);

    let mut body = watching.pop().unwrap();
    let again = event(&mut body).await.unwrap();
    assert!(again["set"].as_object().unwrap().is_empty(), "nothing changed: {again}");
    tasks.request_stop();
    assert!(event(&mut body).await.is_none(), "the stream ends with the daemon");
    assert!(tasks.next_ended().await.is_none());
}

#[tokio::test]
async fn a_store_that_cannot_be_read_costs_the_plot_and_not_the_page() {
    let tasks = Tasks::new();
    let queries = Counting { fleet: fleet(false), totals: AtomicUsize::new(0), broken: true };
    let router = router(Arc::new(queries), &tasks);
    for path in ["/", "/node/edge1", "/workloads?by=pod"] {
        let answer = tokio::time::timeout(Duration::from_secs(10), ask(&router, path)).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        let page = text(answer).await;
        assert!(page.contains("disk I/O error") && page.contains("edge1"), "{path}");
    }
}
