//! What a replay reports: the JSON that scripts rely on, and the table for people.

use std::fmt;

use serde::Serialize;

/// The outcome of one `rezcache replay`.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// One entry per capture, in the order given.
    pub captures: Vec<CaptureReport>,
}

/// One capture.
#[derive(Clone, Debug, Default, Serialize)]
pub struct CaptureReport {
    /// The capture's path as given.
    pub file: String,
    /// Nothing mismatched, missing or lost, and no later pass asked the grid over HTTP for an asset
    /// that was whole before.
    pub ok: bool,
    /// What went wrong: where, when and what; never secrets.
    pub errors: Vec<String>,
    /// The passes, cold first.
    pub passes: Vec<PassReport>,
}

/// One pass over a capture.
#[derive(Clone, Debug, Default, Serialize)]
pub struct PassReport {
    /// Counts from 1.
    pub pass: u32,
    /// Asset requests that count.
    pub requests: Requests,
    /// Who delivered the bytes; sums to the requests.
    pub served: Served,
    /// Asset body bytes of the requests that count.
    pub bytes: BytesReport,
    /// Answers with other bytes than the capture's asset, or another slice than they say.
    pub mismatched_assets: u64,
    /// Requests without a whole answer.
    pub missing_assets: u64,
    /// LLUDP datagrams, as the proxy counts them; `lost` as the stand-ins do.
    pub datagrams: Datagrams,
    /// How long the pass took, in milliseconds.
    pub elapsed_ms: u64,
    /// Time from request to last byte of the counted HTTP requests, in milliseconds.
    pub latency_ms: Latency,
}

/// Requests by transport.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Requests {
    /// GETs of asset capabilities.
    pub http: HttpRequests,
    /// RequestImage and TransferRequest.
    pub udp: UdpRequests,
}

/// HTTP requests by kind.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the fields are the kinds")]
pub struct HttpRequests {
    pub texture: u64,
    pub mesh: u64,
    pub sound: u64,
    pub animation: u64,
    pub material: u64,
}

/// LLUDP requests by kind; a kind that has no field here counts nowhere.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the fields are the kinds")]
pub struct UdpRequests {
    pub texture: u64,
    pub sound: u64,
    pub animation: u64,
}

/// Requests by source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Served {
    /// The proxy's memory.
    pub memory: u64,
    /// The proxy's disk.
    pub disk: u64,
    /// The shared service.
    pub service: u64,
    /// The grid: any byte came from it.
    pub grid: u64,
    /// Another request's fetch.
    pub joined: u64,
}

/// Bytes by way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct BytesReport {
    /// Sent by the stand-in grid, over HTTP and LLUDP.
    pub from_grid: u64,
    /// Read from the service.
    pub from_service: u64,
    /// Received by the stand-in viewer.
    pub to_viewer: u64,
}

/// LLUDP datagrams by fate.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "as the counters of the proxy")]
pub struct Datagrams {
    pub forwarded: u64,
    pub patched: u64,
    pub injected: u64,
    pub swallowed: u64,
    pub malformed: u64,
    /// Sent, but neither arrived nor deliberately kept back within 5 s.
    pub lost: u64,
}

/// Quantiles, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
#[expect(missing_docs, reason = "the fields are the quantiles")]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
}

impl Report {
    /// Whether every capture replayed as it should.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        !self.captures.is_empty() && self.captures.iter().all(|capture| capture.ok)
    }
}

impl Requests {
    /// All that count, over both transports.
    #[must_use]
    pub const fn total(&self) -> u64 {
        let HttpRequests { texture, mesh, sound, animation, material } = &self.http;
        *texture
            + *mesh
            + *sound
            + *animation
            + *material
            + self.udp.texture
            + self.udp.sound
            + self.udp.animation
    }
}

/// The table: a line per pass, errors below their capture.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = |capture: &CaptureReport| {
            let path = std::path::Path::new(&capture.file);
            path.file_name().map_or_else(|| capture.file.clone(), |name| name.to_string_lossy().into_owned())
        };
        let width = self.captures.iter().map(|capture| name(capture).len()).max().unwrap_or(0).max(7);
        writeln!(
            f,
            "{:width$}  pass  requests  memory  disk  service  grid  joined   from grid  to viewer  datagrams  lost      time  p50 ms  p99 ms",
            "capture"
        )?;
        for capture in &self.captures {
            for pass in &capture.passes {
                writeln!(
                    f,
                    "{:width$}  {:>4}  {:>8}  {:>6}  {:>4}  {:>7}  {:>4}  {:>6}  {:>10}  {:>9}  {:>9}  {:>4}  {:>6.1} s  {:>6.1}  {:>6.1}",
                    name(capture),
                    pass.pass,
                    pass.requests.total(),
                    pass.served.memory,
                    pass.served.disk,
                    pass.served.service,
                    pass.served.grid,
                    pass.served.joined,
                    Size(pass.bytes.from_grid),
                    Size(pass.bytes.to_viewer),
                    pass.datagrams.forwarded,
                    pass.datagrams.lost,
                    Seconds(pass.elapsed_ms).get(),
                    pass.latency_ms.p50,
                    pass.latency_ms.p99,
                )?;
            }
            writeln!(f, "{:width$}  {}", name(capture), if capture.ok { "ok" } else { "NOT OK" })?;
            for error in &capture.errors {
                writeln!(f, "{:width$}  - {error}", "")?;
            }
        }
        Ok(())
    }
}

struct Seconds(u64);

impl Seconds {
    fn get(&self) -> f64 {
        std::time::Duration::from_millis(self.0).as_secs_f64()
    }
}

struct Size(u64);

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self.0 {
            0 => "0".to_owned(),
            bytes @ ..10_000_000 => format!("{} kB", bytes.div_ceil(1000)),
            bytes => format!("{} MB", bytes / 1_000_000),
        };
        f.pad(&text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::{CaptureReport, PassReport, Report};

    #[test]
    fn the_json_has_exactly_the_keys_of_the_contract() {
        let capture = CaptureReport {
            passes: vec![PassReport { pass: 1, ..Default::default() }],
            ..Default::default()
        };
        let json = serde_json::to_string(&Report { captures: vec![capture] }).unwrap();
        let expected = concat!(
            r#"{"captures":[{"file":"","ok":false,"errors":[],"passes":[{"pass":1,"#,
            r#""requests":{"http":{"texture":0,"mesh":0,"sound":0,"animation":0,"material":0},"#,
            r#""udp":{"texture":0,"sound":0,"animation":0}},"#,
            r#""served":{"memory":0,"disk":0,"service":0,"grid":0,"joined":0},"#,
            r#""bytes":{"from_grid":0,"from_service":0,"to_viewer":0},"#,
            r#""mismatched_assets":0,"missing_assets":0,"#,
            r#""datagrams":{"forwarded":0,"patched":0,"injected":0,"swallowed":0,"malformed":0,"lost":0},"#,
            r#""elapsed_ms":0,"latency_ms":{"p50":0.0,"p99":0.0}}]}]}"#,
        );
        assert_eq!(json, expected);
    }
}
