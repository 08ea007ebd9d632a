//! The one MongoDB client of the process, made in the background.
//!
//! Making it can take a while (a `mongodb+srv` name has to be resolved), and the proxy does not
//! wait for it.

use std::sync::Arc;
use std::time::Duration;

use mongodb::Client;
use mongodb::options::ClientOptions;
use tokio::sync::SetOnce;
use tracing::warn;

use super::deployment::{self, Deployment, DeploymentError};
use super::trouble::Trouble;
use crate::config::MongodbUri;

/// How long a server is looked for, unless the URI says `serverSelectionTimeoutMS`.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause before a name is resolved again.
const RETRY: Duration = Duration::from_secs(2);

/// Cheap to clone; all clones are one.
#[derive(Debug, Clone, Default)]
pub struct Server {
    connected: Arc<SetOnce<(Client, ClientOptions)>>,
}

/// Why MongoDB cannot be used at the start.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing answers there.
    #[error("{0}")]
    Unavailable(String),
    /// Something answers, and somebody has to do something.
    #[error("{0}")]
    Unusable(String),
}

impl Server {
    /// Makes the client as soon as the URI's name can be resolved.
    ///
    /// # Errors
    /// A URI that is none; retrying does not help.
    pub async fn connect(&self, uri: &MongodbUri) -> Result<(), mongodb::error::Error> {
        loop {
            match ClientOptions::parse(uri.expose()).await {
                Ok(mut options) => {
                    options.app_name.get_or_insert_with(|| "sidestream".to_string());
                    options.server_selection_timeout.get_or_insert(SERVER_SELECTION_TIMEOUT);
                    let client = Client::with_options(options.clone())?;
                    // Only set here; a second time would be a second call, which keeps the first.
                    let _ = self.connected.set((client, options));
                    return Ok(());
                }
                Err(error) if Trouble::of(&error) == Trouble::Unreachable => {
                    let message = crate::redact::uris(&error.to_string());
                    warn!("the host of mongodb.uri cannot be resolved: {message}");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The client, once there is one.
    pub async fn client(&self) -> &Client {
        &self.connected.wait().await.0
    }

    /// Asks the server what it is, once.
    ///
    /// # Errors
    /// [`ProbeError`], with what to do.
    pub async fn probe(&self) -> Result<Deployment, ProbeError> {
        let found = tokio::time::timeout(SERVER_SELECTION_TIMEOUT, self.connected.wait()).await;
        let Ok((client, options)) = found else {
            return Err(ProbeError::Unavailable(
                "the host of mongodb.uri cannot be resolved".to_string(),
            ));
        };
        let error = match deployment::ask(client).await {
            Ok(deployment) => return Ok(deployment),
            Err(error) => error,
        };
        match &error {
            DeploymentError::Driver(driver) if Trouble::of(driver) == Trouble::Unreachable => {
                match deployment::diagnose(options).await {
                    Some(reason) => Err(ProbeError::Unusable(reason)),
                    None => Err(ProbeError::Unavailable(format!(
                        "nothing answers at {}: {}",
                        hosts(options),
                        Trouble::Unreachable.advice("")
                    ))),
                }
            }
            DeploymentError::Driver(driver) => {
                let message = crate::redact::uris(&driver.to_string());
                let advice = Trouble::of(driver).advice("admin");
                Err(ProbeError::Unusable(format!("{message}; {advice}")))
            }
            other => Err(ProbeError::Unusable(other.to_string())),
        }
    }

    /// After no server could be chosen: a reason that helps, where there is one.
    pub async fn diagnose(&self) -> Option<String> {
        deployment::diagnose(&self.connected.wait().await.1).await
    }

    /// Closes the connections; cursors have to be closed before.
    pub async fn close(&self) {
        if let Some((client, _)) = self.connected.get() {
            client.clone().shutdown().immediate(true).await;
        }
    }
}

fn hosts(options: &ClientOptions) -> String {
    let hosts: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    hosts.join(", ")
}
