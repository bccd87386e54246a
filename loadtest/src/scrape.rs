//! What the server says of itself on /metrics: one request, and its samples by name.
//!
//! Bounds the answer in size and time. Reads the Prometheus text format as far as
//! counters and gauges go; histograms are left alone.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use anyhow::{Context, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

const ANSWER_LIMIT: Duration = Duration::from_secs(10);
const ANSWER_MAX: u64 = 4 << 20;

/// The samples of one moment.
#[derive(Debug, Clone)]
pub(crate) struct Scrape(Vec<Sample>);

#[derive(Debug, Clone, PartialEq)]
struct Sample {
    name: String,
    labels: String,
    value: f64,
}

impl Scrape {
    /// # Errors
    /// When the server does not answer in time, or not with metrics.
    pub(crate) async fn take(admin: SocketAddr) -> anyhow::Result<Self> {
        let body = timeout(ANSWER_LIMIT, get(admin))
            .await
            .context("no answer in time")
            .and_then(|body| body)
            .with_context(|| format!("cannot read http://{admin}/metrics"))?;
        Ok(Self(body.lines().filter_map(sample).collect()))
    }

    /// The sum over all labels; an error names the metric that is missing.
    ///
    /// # Errors
    /// When the server has no such metric.
    pub(crate) fn sum(&self, name: &str) -> anyhow::Result<f64> {
        let mut samples = self.0.iter().filter(|sample| sample.name == name);
        let first = samples.next().with_context(|| {
            format!("this server has no metric {name}; is it older than this program?")
        })?;
        Ok(samples.fold(first.value, |sum, sample| sum + sample.value))
    }

    /// The sums by the value of one label.
    pub(crate) fn by_label(&self, name: &str, label: &str) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.0.iter().filter(|sample| sample.name == name) {
            if let Some(value) = label_value(&sample.labels, label) {
                *sums.entry(value.to_owned()).or_default() += sample.value;
            }
        }
        sums
    }
}

/// Looks at a metric every `step` until it satisfies `enough`, and returns its last value, whether it does
/// or `limit` has passed.
///
/// # Errors
/// When the server does not answer or has no such metric.
pub(crate) async fn wait_for(
    admin: SocketAddr,
    name: &str,
    limit: Duration,
    step: Duration,
    enough: impl Fn(f64) -> bool,
) -> anyhow::Result<f64> {
    let waiting = std::time::Instant::now();
    loop {
        let value = Scrape::take(admin).await?.sum(name)?;
        if enough(value) || waiting.elapsed() > limit {
            return Ok(value);
        }
        sleep(step).await;
    }
}

async fn get(admin: SocketAddr) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(admin).await?;
    // HTTP/1.0: the answer ends with the connection and is not chunked.
    let request = format!("GET /metrics HTTP/1.0\r\nHost: {admin}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(ANSWER_MAX).read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.lines().next().unwrap_or_default();
    if status.split_ascii_whitespace().nth(1) != Some("200") {
        bail!("answered with {status}");
    }
    Ok(body.to_owned())
}

fn sample(line: &str) -> Option<Sample> {
    if line.starts_with('#') {
        return None;
    }
    // No label here has a value with a brace in it.
    let (series, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = rest.split_once('}')?;
            ((name, labels), rest)
        }
        None => {
            let (name, rest) = line.split_once(' ')?;
            ((name, ""), rest)
        }
    };
    Some(Sample {
        name: series.0.to_owned(),
        labels: series.1.to_owned(),
        value: rest.split_ascii_whitespace().next()?.parse().ok()?,
    })
}

fn label_value<'a>(labels: &'a str, wanted: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (label, value) = pair.split_once('=')?;
        (label.trim() == wanted).then(|| value.trim_matches('"'))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    const TEXT: &str = "# HELP refused Sockets refused.\n# TYPE refused counter\n\
        refused{reason=\"per_ip\",dir=\"in\"} 3\nrefused{reason=\"total\",dir=\"in\"} 4\n\
        refused{reason=\"per_ip\",dir=\"out\"} 1\nrefused_bytes 9\nconnections 17\n";

    fn scrape() -> Scrape {
        Scrape(TEXT.lines().filter_map(sample).collect())
    }

    #[test]
    fn a_metric_is_summed_over_its_labels_and_no_other_name() {
        assert_eq!(scrape().sum("refused").unwrap(), 8.0);
        assert_eq!(scrape().sum("connections").unwrap(), 17.0);
    }

    #[test]
    fn labels_are_told_apart() {
        let by_reason = scrape().by_label("refused", "reason");
        let expected = [("per_ip".to_owned(), 4.0), ("total".to_owned(), 4.0)];
        assert_eq!(by_reason, expected.into_iter().collect());
        assert!(scrape().by_label("refused", "nothing").is_empty());
    }

    #[test]
    fn a_missing_metric_is_named() {
        let error = scrape().sum("absent").unwrap_err().to_string();
        assert!(error.contains("no metric absent"), "{error}");
    }
}
