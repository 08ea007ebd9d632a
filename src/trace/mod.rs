//! Traces for OpenTelemetry, sent by OTLP over HTTP. Off unless the settings or the standard
//! variables name a collector.
//!
//! The other rooms know a [`Tracer`] that makes [`Span`]s, and nothing of OpenTelemetry. While it is
//! off, a span is nothing: making one looks at one pointer, and nothing is allocated.
//!
//! Spans are for what takes a while and happens seldom: a forwarded request, the opening of a stream,
//! a replay pass, a snapshot, a reload, a batch of a cursor. Never for a single delivery. No span
//! holds a query, a parameter, a claim or a document.

mod client;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{
    SpanBuilder, SpanKind, Status, TraceContextExt, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

/// The variables of OpenTelemetry that name a collector.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"];
/// What the exporter does not put behind an address that it is given whole.
const PATH: &str = "/v1/traces";
/// How long the last spans may take on their way out.
const FAREWELL: Duration = Duration::from_secs(3);
/// The header field of [W3C Trace Context](https://www.w3.org/TR/trace-context/).
pub const TRACEPARENT: &str = "traceparent";

/// Makes spans. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<On>>);

#[derive(Debug)]
struct On {
    tracer: SdkTracer,
    provider: SdkTracerProvider,
}

/// What one thing takes: until it is dropped. Cheap to clone; the last one counts.
#[derive(Debug, Clone, Default)]
pub struct Span(Option<Context>);

/// Whose side a span is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanSide {
    /// Of whoever was asked.
    Server,
    /// Of whoever asks.
    Client,
    Internal,
}

impl Tracer {
    /// `otlp` is `trace.otlp`. Within a runtime, whose tasks send the spans.
    ///
    /// # Errors
    /// The address cannot be used, and why.
    pub fn start(otlp: Option<&str>) -> Result<Tracer, String> {
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        let is_disabled = variable("OTEL_SDK_DISABLED").eq_ignore_ascii_case("true")
            || variable("OTEL_TRACES_EXPORTER") == "none";
        let is_wanted = otlp.is_some() || ENDPOINTS.iter().any(|name| !variable(name).is_empty());
        if is_disabled || !is_wanted {
            return Ok(Tracer::default());
        }
        let exporter = SpanExporter::builder().with_http().with_http_client(client::Client::new());
        let exporter = match otlp {
            Some(base) if base.ends_with(PATH) => exporter.with_endpoint(base),
            Some(base) => exporter.with_endpoint(format!("{}{PATH}", base.trim_end_matches('/'))),
            None => exporter,
        };
        let exporter = exporter.build().map_err(|error| error.to_string())?;
        let mut resource = Resource::builder()
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let says_name = variable("OTEL_RESOURCE_ATTRIBUTES").contains("service.name=");
        if variable("OTEL_SERVICE_NAME").is_empty() && !says_name {
            resource = resource.with_service_name("sidestream");
        }
        let provider = SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("sidestream");
        Ok(Tracer(Some(Arc::new(On { tracer, provider }))))
    }

    /// Whether a collector is configured. While it is not, every span is empty.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// A span that belongs to nothing else.
    pub fn root(&self, side: SpanSide, name: &'static str) -> Span {
        self.make(side, name, &Context::new())
    }

    /// A span within another.
    pub fn within(&self, parent: &Span, side: SpanSide, name: &'static str) -> Span {
        match &parent.0 {
            Some(parent) => self.make(side, name, parent),
            None => Span::default(),
        }
    }

    /// A span within one of the client's, where its request names one.
    pub fn continued(
        &self,
        side: SpanSide,
        name: impl Into<std::borrow::Cow<'static, str>>,
        traceparent: Option<&[u8]>,
    ) -> Span {
        if !self.is_on() {
            return Span::default();
        }
        let text = traceparent.and_then(|value| std::str::from_utf8(value).ok());
        let fields = text.map(|text| (TRACEPARENT.to_owned(), text.to_owned()));
        let fields: HashMap<String, String> = fields.into_iter().collect();
        // What cannot be read is passed over, as the standard says.
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &fields);
        self.make(side, name, &parent)
    }

    fn make(
        &self,
        side: SpanSide,
        name: impl Into<std::borrow::Cow<'static, str>>,
        parent: &Context,
    ) -> Span {
        let Some(on) = &self.0 else { return Span::default() };
        let kind = match side {
            SpanSide::Server => SpanKind::Server,
            SpanSide::Client => SpanKind::Client,
            SpanSide::Internal => SpanKind::Internal,
        };
        let builder = SpanBuilder::from_name(name).with_kind(kind);
        let span = on.tracer.build_with_context(builder, parent);
        Span(Some(parent.with_span(span)))
    }

    /// Sends what is left. The runtime goes on meanwhile.
    pub async fn finish(&self) {
        let Some(on) = self.0.clone() else { return };
        // It waits for a thread, which waits for a task of ours.
        let ending = tokio::task::spawn_blocking(move || {
            // A collector that is away has nothing to be told.
            let _ = on.provider.shutdown_with_timeout(FAREWELL);
        });
        let _ = tokio::time::timeout(FAREWELL, ending).await;
    }
}

impl Span {
    /// Whether it is recorded; values that are costly to make can be left out otherwise.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sets an attribute, named as in OpenTelemetry's conventions; does nothing while traces are
    /// off.
    pub fn set(&self, name: &'static str, value: impl Into<Value>) {
        if let Some(context) = &self.0 {
            context.span().set_attribute(KeyValue::new(name, value));
        }
    }

    /// Only where somebody looks: for values that cost something to make.
    pub fn set_with<V: Into<Value>>(&self, name: &'static str, value: impl FnOnce() -> V) {
        if self.0.is_some() {
            self.set(name, value());
        }
    }

    /// It failed, by this kind of error.
    pub fn fail(&self, kind: impl Into<Value>) {
        if let Some(context) = &self.0 {
            let kind: Value = kind.into();
            context.span().set_status(Status::error(kind.as_str().into_owned()));
            context.span().set_attribute(KeyValue::new("error.type", kind));
        }
    }

    /// Over before it is dropped.
    pub fn end(&self) {
        if let Some(context) = &self.0 {
            context.span().end();
        }
    }

    /// What the next one on the way is told, to go on with this trace: of the standard
    /// [Trace Context](https://www.w3.org/TR/trace-context/).
    pub fn traceparent(&self) -> Option<String> {
        let context = self.0.as_ref()?;
        let mut fields = HashMap::new();
        TraceContextPropagator::new().inject_context(context, &mut fields);
        fields.remove(TRACEPARENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_costs_a_pointer_and_does_nothing() {
        let tracer = Tracer::default();
        assert_eq!(size_of::<Tracer>(), size_of::<usize>());
        let span = tracer.continued(
            SpanSide::Server,
            "GET",
            Some(b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        );
        span.set("a", 1);
        span.set_with("b", || -> i64 { panic!("nobody looks") });
        span.fail("timeout");
        span.end();
        assert_eq!(span.traceparent(), None);
        assert!(tracer.within(&span, SpanSide::Client, "GET").0.is_none());
    }
}
