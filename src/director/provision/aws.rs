//! Nodes as instances of an Auto Scaling group: one more is opened by raising the desired capacity, a chosen one is
//! closed by terminating it and lowering that. The group's launch template starts `rezcache serve`.
//!
//! Source: Amazon EC2 Auto Scaling API reference, version 2011-01-01; Amazon EC2, 2016-11-15; instance metadata
//! service, version 2.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;

use super::sigv4::{self, Form, Keys, escaped};
use super::{Asked, ProvisionError, Provisioner};
use crate::fleet::array::NodeSpec;
use crate::xml::{Pull, Token, decode_text};

/// One call may take this long.
const PATIENCE: Duration = Duration::from_secs(20);
/// A new instance appears in the group within seconds, and has an address within a minute.
const APPEARS: Duration = Duration::from_secs(300);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(3);
/// Tries of a call that was told to come later.
const TRIES: u32 = 6;
/// Answers are small.
const MAX_ANSWER: usize = 1 << 20;
/// Lent keys are asked for anew when they end within this.
const MARGIN: Duration = Duration::from_secs(300);

/// Which group.
#[derive(Clone, Debug)]
pub struct AwsConfig {
    /// Its name.
    pub group: String,
    /// Its region.
    pub region: String,
    /// Where nodes listen.
    pub port: u16,
    /// Whether DNS names the instances' private addresses.
    pub private: bool,
    /// Another place than Amazon's, for tests.
    pub endpoint: Option<String>,
    /// Another place of the metadata service.
    pub metadata: Option<String>,
}

/// An Auto Scaling group.
pub struct AwsProvisioner {
    config: AwsConfig,
    client: reqwest::Client,
    keys: Mutex<Option<(Keys, Option<Instant>)>>,
    /// One opening at a time: a new instance is told by not having been there before.
    opening: Mutex<()>,
}

impl std::fmt::Debug for AwsProvisioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsProvisioner").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The group as it is.
#[derive(Debug, PartialEq, Eq)]
struct Group {
    desired: u64,
    maximum: u64,
    instances: BTreeSet<String>,
}

enum Trouble {
    /// Too many calls, or the other side is in trouble.
    Later(String),
    Failed(String),
}

impl AwsProvisioner {
    /// A group, with keys from the environment or the instance's role.
    ///
    /// # Errors
    /// When no client can be made.
    pub fn new(config: AwsConfig) -> Result<Self, ProvisionError> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(PATIENCE)
            .build()
            .map_err(|error| failed(error.without_url().to_string()))?;
        Ok(Self { config, client, keys: Mutex::default(), opening: Mutex::default() })
    }

    async fn keys(&self) -> Result<Keys, Trouble> {
        let mut kept = self.keys.lock().await;
        if let Some((keys, until)) = &*kept
            && until.is_none_or(|until| Instant::now() + MARGIN < until)
        {
            return Ok(keys.clone());
        }
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let found = match (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY")) {
            (Some(access), Some(secret)) => {
                (Keys { access, secret, session: variable("AWS_SESSION_TOKEN") }, None)
            }
            _ => self.lent_keys().await?,
        };
        *kept = Some(found.clone());
        Ok(found.0)
    }

    /// The keys of the instance's role.
    async fn lent_keys(&self) -> Result<(Keys, Option<Instant>), Trouble> {
        let base = self.config.metadata.as_deref().unwrap_or("http://169.254.169.254");
        let told = |error: reqwest::Error| {
            Trouble::Later(format!("the instance's role is not to be had: {}", error.without_url()))
        };
        let put = self.client.put(format!("{base}/latest/api/token"));
        let token = put.header("x-aws-ec2-metadata-token-ttl-seconds", "300").send().await.map_err(told)?;
        let token = token.error_for_status().map_err(told)?.text().await.map_err(told)?;
        let get = async |path: String| {
            let asked = self.client.get(path).header("x-aws-ec2-metadata-token", &token).send().await;
            asked.and_then(reqwest::Response::error_for_status).map_err(told)?.text().await.map_err(told)
        };
        let roles = get(format!("{base}/latest/meta-data/iam/security-credentials/")).await?;
        let role = roles.lines().next().unwrap_or_default().trim().to_owned();
        let text = get(format!("{base}/latest/meta-data/iam/security-credentials/{role}")).await?;
        let json: serde_json::Value =
            serde_json::from_str(&text).map_err(|_| Trouble::Failed("the instance has no role".into()))?;
        let field = |name: &str| {
            let text = json.get(name).and_then(serde_json::Value::as_str);
            text.map(ToOwned::to_owned)
                .ok_or_else(|| Trouble::Failed("the instance's role has no keys".into()))
        };
        let keys = Keys {
            access: field("AccessKeyId")?,
            secret: field("SecretAccessKey")?,
            session: Some(field("Token")?),
        };
        // They are good for an hour at least; asked for again well before.
        Ok((keys, Some(Instant::now() + Duration::from_secs(1800))))
    }

    /// One call, tried again while the other side asks for patience.
    async fn call(
        &self,
        service: &str,
        version: &str,
        fields: &[(&str, &str)],
    ) -> Result<Vec<u8>, ProvisionError> {
        let mut pause = Duration::from_millis(500);
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.try_call(service, version, fields).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Failed(told)) => return Err(failed(told)),
                Err(Trouble::Later(told)) => last = told,
            }
            tokio::time::sleep(pause + Duration::from_millis(rand::random_range(0..250))).await;
            pause *= 2;
        }
        Err(failed(last))
    }

    async fn try_call(
        &self,
        service: &str,
        version: &str,
        fields: &[(&str, &str)],
    ) -> Result<Vec<u8>, Trouble> {
        let keys = self.keys().await?;
        let mut body = format!("Version={version}");
        for (name, value) in fields {
            body.push_str(&format!("&{name}={}", escaped(value)));
        }
        let usual = format!("https://{service}.{}.amazonaws.com", self.config.region);
        let endpoint = self.config.endpoint.as_deref().unwrap_or(&usual).trim_end_matches('/');
        let host = endpoint.split_once("://").map_or(endpoint, |(_, host)| host);
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let form =
            Form { host, region: &self.config.region, service, body: &body, at: &sigv4::stamp(seconds) };
        let mut request = self.client.post(format!("{endpoint}/"));
        for (name, value) in sigv4::headers(&keys, &form) {
            request = request.header(name, value);
        }
        let response = request.body(body.clone()).send().await;
        let mut response = response.map_err(|error| Trouble::Later(error.without_url().to_string()))?;
        let status = response.status();
        let mut answer = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            answer.extend_from_slice(&chunk);
            if answer.len() > MAX_ANSWER {
                return Err(Trouble::Failed("the answer is too long".into()));
            }
        }
        if status.is_success() {
            return Ok(answer);
        }
        let code = first(&answer, "Code").unwrap_or_else(|| status.to_string());
        let message = first(&answer, "Message").unwrap_or_default();
        let told =
            format!("{code}: {}", message.chars().filter(|c| !c.is_control()).take(300).collect::<String>());
        let patient =
            ["Throttling", "RequestLimitExceeded", "ScalingActivityInProgress", "ServiceUnavailable"];
        if status.is_server_error()
            || status.as_u16() == 429
            || patient.iter().any(|word| code.contains(word))
        {
            // Keys that were lent may have been taken back.
            return Err(Trouble::Later(told));
        }
        if code.contains("ExpiredToken") || code.contains("InvalidClientTokenId") {
            *self.keys.lock().await = None;
            return Err(Trouble::Later(told));
        }
        Err(Trouble::Failed(told))
    }

    async fn group(&self) -> Result<Group, ProvisionError> {
        let fields =
            [("Action", "DescribeAutoScalingGroups"), ("AutoScalingGroupNames.member.1", &self.config.group)];
        let answer = self.call("autoscaling", "2011-01-01", &fields).await?;
        read_group(&answer).ok_or_else(|| failed(format!("there is no group {}", self.config.group)))
    }

    async fn address(&self, instance: &str) -> Result<Option<IpAddr>, ProvisionError> {
        let fields = [("Action", "DescribeInstances"), ("InstanceId.1", instance)];
        let answer = self.call("ec2", "2016-11-15", &fields).await?;
        let element = if self.config.private { "privateIpAddress" } else { "ipAddress" };
        Ok(first(&answer, element).and_then(|text| text.parse().ok()))
    }
}

fn failed(told: String) -> ProvisionError {
    ProvisionError::Failed { program: "AWS".into(), told }
}

impl Provisioner for AwsProvisioner {
    fn open(&self, name: String) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            let _one = self.opening.lock().await;
            let before = self.group().await?;
            // Checked here: not every service that speaks this language does.
            if before.desired >= before.maximum {
                return Err(failed(format!(
                    "the group {} is at its maximum of {}; raise it, or lower the director's",
                    self.config.group, before.maximum
                )));
            }
            let wanted = (before.desired + 1).to_string();
            let fields = [
                ("Action", "SetDesiredCapacity"),
                ("AutoScalingGroupName", self.config.group.as_str()),
                ("DesiredCapacity", wanted.as_str()),
                ("HonorCooldown", "false"),
            ];
            self.call("autoscaling", "2011-01-01", &fields).await?;
            let began = Instant::now();
            while began.elapsed() < APPEARS {
                let now = self.group().await?;
                if let Some(instance) = now.instances.difference(&before.instances).next()
                    && let Some(address) = self.address(instance).await?
                {
                    let host = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
                    let url = format!("https://{host}:{}", self.config.port);
                    return Ok(NodeSpec { name, url, addresses: vec![address], handle: instance.clone() });
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(ProvisionError::Slow(format!("the group {}", self.config.group)))
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        Box::pin(async move {
            // Without lowering the capacity the group would start another one.
            let fields = [
                ("Action", "TerminateInstanceInAutoScalingGroup"),
                ("InstanceId", node.handle.as_str()),
                ("ShouldDecrementDesiredCapacity", "true"),
            ];
            match self.call("autoscaling", "2011-01-01", &fields).await {
                Ok(_) => Ok(()),
                // It is gone: that is what was wanted.
                Err(_) if !self.group().await?.instances.contains(&node.handle) => Ok(()),
                Err(error) => Err(error),
            }
        })
    }
}

/// Leaf elements with their texts, in the order of the document.
fn leaves(xml: &[u8]) -> Option<Vec<(Vec<String>, String)>> {
    let mut pull = Pull::new(xml).ok()?;
    let (mut path, mut found) = (Vec::new(), Vec::new());
    let mut opened = None;
    loop {
        match pull.next().ok()? {
            Token::Open { name, span } => {
                path.push(String::from_utf8_lossy(name).into_owned());
                opened = Some(span.end);
            }
            Token::Empty { .. } => {}
            Token::Close { span } => {
                if let Some(text) = opened.take().and_then(|from| decode_text(xml.get(from..span.start)?)) {
                    found.push((path.clone(), text.trim().to_owned()));
                }
                path.pop();
            }
            Token::End => return Some(found),
        }
    }
}

fn first(xml: &[u8], element: &str) -> Option<String> {
    let leaves = leaves(xml)?;
    leaves.into_iter().find(|(path, _)| path.last().is_some_and(|name| name == element)).map(|(_, text)| text)
}

fn read_group(xml: &[u8]) -> Option<Group> {
    let leaves = leaves(xml)?;
    let number = |element: &str| {
        let found = leaves.iter().find(|(path, _)| path.last().is_some_and(|name| name == element))?;
        found.1.parse::<u64>().ok()
    };
    // Instances on their way out are not there any more.
    let mut instances = BTreeSet::new();
    let mut current: Option<&str> = None;
    for (path, text) in &leaves {
        if !path.iter().any(|name| name == "Instances") {
            continue;
        }
        match path.last().map(String::as_str) {
            Some("InstanceId") => {
                current = Some(text);
                instances.insert(text.clone());
            }
            Some("LifecycleState") if text.starts_with("Terminat") => {
                if let Some(instance) = current {
                    instances.remove(instance);
                }
            }
            _ => {}
        }
    }
    Some(Group { desired: number("DesiredCapacity")?, maximum: number("MaxSize")?, instances })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn a_group_is_read() {
        let xml = br#"<DescribeAutoScalingGroupsResponse xmlns="http://x/"><DescribeAutoScalingGroupsResult>
          <AutoScalingGroups><member><AutoScalingGroupName>rez</AutoScalingGroupName><MinSize>0</MinSize>
          <MaxSize>5</MaxSize><DesiredCapacity>2</DesiredCapacity><Instances>
          <member><InstanceId>i-1</InstanceId><LifecycleState>InService</LifecycleState></member>
          <member><InstanceId>i-2</InstanceId><LifecycleState>Terminating:Wait</LifecycleState></member>
          <member><LaunchConfigurationName/><InstanceId>i-3</InstanceId><LifecycleState>Pending</LifecycleState></member>
          </Instances></member></AutoScalingGroups></DescribeAutoScalingGroupsResult>
          </DescribeAutoScalingGroupsResponse>"#;
        let instances = ["i-1", "i-3"].map(ToOwned::to_owned).into();
        assert_eq!(read_group(xml), Some(Group { desired: 2, maximum: 5, instances }));
        assert_eq!(first(xml, "AutoScalingGroupName").as_deref(), Some("rez"));
        for nothing in [&b"<a><AutoScalingGroups/></a>"[..], b"", b"<a>", b"{}"] {
            assert_eq!(read_group(nothing), None);
        }
    }
}
