//! What kind of MongoDB is at the other end, asked once at the start and after trouble.

use std::time::Duration;

use bson::{Document, Timestamp, doc};
use mongodb::Client;
use mongodb::error::Error;
use mongodb::options::{ClientOptions, ServerAddress};
use tokio::net::TcpStream;

use super::trouble::STANDALONE_ADVICE;

/// What `hello` told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deployment {
    /// The newest time that a majority has, or the operation time where that is not told.
    pub majority_time: Timestamp,
    /// The newest time that the answering server knows of.
    pub cluster_time: Timestamp,
    /// Events of one cluster time can come from several shards.
    pub is_sharded: bool,
}

/// Why there is nothing to watch.
#[derive(Debug, thiserror::Error)]
pub enum DeploymentError {
    #[error("this MongoDB is a standalone server: {STANDALONE_ADVICE}")]
    Standalone,
    #[error(
        "this server answers like MongoDB but tells no cluster time: change streams need MongoDB \
         4.0 or newer as a replica set or a sharded cluster"
    )]
    Unsupported,
    #[error(transparent)]
    Driver(#[from] Error),
}

/// Asks a server that the URI's read preference chooses.
///
/// # Errors
/// [`DeploymentError`], each with what to do.
pub async fn ask(client: &Client) -> Result<Deployment, DeploymentError> {
    let admin = client.database("admin");
    let mut command = admin.run_command(doc! { "hello": 1 });
    // `run_command` ignores the client's read preference unless it is told.
    if let Some(criteria) = client.selection_criteria().cloned() {
        command = command.selection_criteria(criteria);
    }
    let hello = command.await?;
    let is_sharded = hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid");
    if !is_sharded && !hello.contains_key("setName") {
        return Err(DeploymentError::Standalone);
    }
    let time = |document: &Document, key: &str| document.get_timestamp(key).ok();
    let operation_time = time(&hello, "operationTime");
    let majority_time = hello
        .get_document("lastWrite")
        .and_then(|last| last.get_document("majorityOpTime"))
        .ok()
        .and_then(|optime| time(optime, "ts"))
        .or(operation_time)
        .ok_or(DeploymentError::Unsupported)?;
    let cluster_time = hello
        .get_document("$clusterTime")
        .ok()
        .and_then(|gossip| time(gossip, "clusterTime"))
        .unwrap_or(majority_time);
    Ok(Deployment { majority_time, cluster_time, is_sharded })
}

/// After no server could be chosen: looks at the hosts one by one, for a reason that helps.
///
/// Returns `None` when none of them answers at all.
pub async fn diagnose(options: &ClientOptions) -> Option<String> {
    for address in &options.hosts {
        let ServerAddress::Tcp { host, port } = address else {
            continue;
        };
        let port = port.unwrap_or(27017);
        let connect = TcpStream::connect((host.as_str(), port));
        if !matches!(tokio::time::timeout(Duration::from_secs(2), connect).await, Ok(Ok(_))) {
            continue;
        }
        return Some(diagnose_host(options, address).await);
    }
    None
}

async fn diagnose_host(options: &ClientOptions, address: &ServerAddress) -> String {
    let mut direct = options.clone();
    direct.hosts = vec![address.clone()];
    direct.direct_connection = Some(true);
    direct.repl_set_name = None;
    direct.server_selection_timeout = Some(Duration::from_secs(3));
    let hello = async {
        let client = Client::with_options(direct)?;
        let hello = client.database("admin").run_command(doc! { "hello": 1 }).await;
        client.shutdown().immediate(true).await;
        hello
    };
    let wanted = options.repl_set_name.as_deref();
    match hello.await {
        Err(error) => format!("{address} accepts connections, but: {error}"),
        Ok(hello) => match (hello.get_str("setName").ok(), wanted) {
            (Some(name), Some(wanted)) if name != wanted => format!(
                "{address} is a member of the replica set `{name}`, but mongodb.uri asks for \
                 replicaSet={wanted}"
            ),
            (Some(name), _) => format!(
                "{address} is a member of the replica set `{name}`, but the set has no primary \
                 at present, or its members' names (rs.conf()) cannot be reached from here"
            ),
            (None, _) if hello.get_bool("isreplicaset").unwrap_or(false) => {
                format!("{address} is not initiated: run rs.initiate() once in mongosh")
            }
            (None, _) => format!("{address} is a standalone server: {STANDALONE_ADVICE}"),
        },
    }
}
