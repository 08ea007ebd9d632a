//! A small API server: objects by path, with versions and conflicts as the real one has them. It
//! serves over TLS and asks for a token; what else a real one does (storage, admission, RBAC) it does
//! not do, and no test here is about that.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use sidestream::kubernetes::webhook::ApiServer;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::webhook::{Pair, acceptor};

const TOKEN: &str = "a-token";

/// What it holds.
#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    version: u64,
    /// Requests, as `PATCH /path`.
    log: Vec<String>,
    /// What another client writes just before the next write to that path.
    rivals: BTreeMap<String, Value>,
}

/// A running one.
pub struct Cluster {
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    dir: tempfile::TempDir,
}

impl Cluster {
    pub async fn start(objects: &[(&str, Value)]) -> Cluster {
        let dir = tempfile::tempdir().unwrap();
        let pair = Pair::new(&["127.0.0.1"]);
        std::fs::write(dir.path().join("ca.crt"), &pair.authority).unwrap();
        std::fs::write(dir.path().join("token"), TOKEN).unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        for (path, object) in objects {
            put(&mut state.lock().unwrap(), path, object.clone());
        }
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, acceptor(&pair), state.clone()));
        Cluster { address, state, dir }
    }

    pub fn access(&self) -> ApiServer {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        ApiServer {
            server: format!("https://{}", self.address),
            authority: path("ca.crt"),
            token: path("token"),
        }
    }

    pub fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().unwrap().objects.get(path).cloned()
    }

    /// Changes an object as somebody else would.
    pub fn set(&self, path: &str, object: Value) {
        put(&mut self.state.lock().unwrap(), path, object);
    }

    /// Another client writes this object just before the next write to it, which then conflicts.
    pub fn overtake(&self, path: &str, object: Value) {
        self.state.lock().unwrap().rivals.insert(path.to_owned(), object);
    }

    pub fn log(&self) -> Vec<String> {
        self.state.lock().unwrap().log.clone()
    }
}

fn put(state: &mut State, path: &str, mut object: Value) -> Value {
    state.version += 1;
    object["metadata"]["resourceVersion"] = state.version.to_string().into();
    state.objects.insert(path.to_owned(), object.clone());
    object
}

fn overtaken(state: &mut State, path: &str) {
    if let Some(object) = state.rivals.remove(path) {
        put(state, path, object);
    }
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, state: Arc<Mutex<State>>) {
    loop {
        let (socket, _) = listener.accept().await.unwrap();
        let (acceptor, state) = (acceptor.clone(), state.clone());
        tokio::spawn(async move {
            let Ok(tls) = acceptor.accept(socket).await else { return };
            let service = service_fn(|request| answer(request, state.clone()));
            let connection = hyper::server::conn::http1::Builder::new();
            let _ = connection.serve_connection(TokioIo::new(tls), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let token = head.headers.get("authorization").and_then(|value| value.to_str().ok());
    let (status, object) = if token != Some(&format!("Bearer {TOKEN}")) {
        (StatusCode::UNAUTHORIZED, json!({ "message": "Unauthorized" }))
    } else {
        let mut state = state.lock().unwrap();
        let path = head.uri.path().to_owned();
        state.log.push(format!("{} {path}", head.method));
        respond(&mut state, &head.method, &path, &body)
    };
    let mut response = Response::new(Full::new(Bytes::from(object.to_string())));
    *response.status_mut() = status;
    Ok(response)
}

fn respond(state: &mut State, method: &Method, path: &str, body: &[u8]) -> (StatusCode, Value) {
    let conflict = (StatusCode::CONFLICT, json!({ "message": "the object has been modified" }));
    if path == "/version" && !state.objects.contains_key(path) {
        return (StatusCode::OK, json!({ "major": "1", "minor": "33+" }));
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    match *method {
        Method::POST => {
            let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
            overtaken(state, &path);
            if state.objects.contains_key(&path) {
                return conflict;
            }
            (StatusCode::CREATED, put(state, &path, body))
        }
        _ => {
            if *method != Method::GET {
                overtaken(state, path);
            }
            let Some(current) = state.objects.get(path).cloned() else {
                return (StatusCode::NOT_FOUND, json!({ "message": "not found" }));
            };
            match *method {
                Method::GET => (StatusCode::OK, current),
                Method::PUT => {
                    let named = body["metadata"].get("resourceVersion");
                    if named.is_some_and(|v| *v != current["metadata"]["resourceVersion"]) {
                        return conflict;
                    }
                    (StatusCode::OK, put(state, path, body))
                }
                Method::PATCH => {
                    let mut patched = current;
                    for step in body.as_array().unwrap() {
                        let at = step["path"].as_str().unwrap();
                        if step["op"] == "test" {
                            assert_eq!(patched.pointer(at), step.get("value"));
                            continue;
                        }
                        let (parent, key) = at.rsplit_once('/').unwrap();
                        patched.pointer_mut(parent).unwrap()[key] = step["value"].clone();
                    }
                    (StatusCode::OK, put(state, path, patched))
                }
                _ => (StatusCode::METHOD_NOT_ALLOWED, json!({})),
            }
        }
    }
}
