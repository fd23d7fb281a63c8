//! Nodes as instances of an Auto Scaling group: one more is opened by raising the desired capacity, a chosen one is
//! closed by terminating it and lowering that. The group's launch template starts `rezcache serve`.
//!
//! The group must not change by itself what the director decides: suspend its processes `AZRebalance`,
//! `AlarmNotification` and `ScheduledActions`. The director needs the rights `autoscaling:DescribeAutoScalingGroups`,
//! `SetDesiredCapacity`, `TerminateInstanceInAutoScalingGroup` and `ec2:DescribeInstances`.
//!
//! Source: Amazon EC2 Auto Scaling API reference, version 2011-01-01; Amazon EC2, 2016-11-15; instance metadata
//! service, version 2.

mod answers;

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Mutex;

use self::answers::{Group, first, is_whole, read_address, read_group};
use super::sigv4::{self, Form, Keys, escaped};
use super::{Asked, ProvisionError, Provisioner};
use crate::fleet::array::NodeSpec;

/// Tries of a call that was told to come later.
const TRIES: u32 = 6;
/// Answers are small.
const MAX_ANSWER: usize = 1 << 20;
/// Lent keys are asked for anew after this: others are there five minutes before they end.
const LENT: Duration = Duration::from_secs(240);
/// Processes of a group that would undo what the director does.
const MEDDLERS: [&str; 4] = ["AZRebalance", "AlarmNotification", "ScheduledActions", "ReplaceUnhealthy"];

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
    /// How long to wait for what.
    pub times: AwsTimes,
}

/// How long to wait for what.
#[derive(Clone, Copy, Debug)]
pub struct AwsTimes {
    /// For an answer.
    pub patience: Duration,
    /// After a call that was told to come later; doubles.
    pub pause: Duration,
    /// Between two looks at the group.
    pub look: Duration,
    /// For instances that somebody has asked for already.
    pub settles: Duration,
    /// For a new instance with its address.
    pub appears: Duration,
}

impl Default for AwsTimes {
    fn default() -> Self {
        Self {
            patience: Duration::from_secs(20),
            pause: Duration::from_millis(500),
            look: Duration::from_secs(3),
            settles: Duration::from_secs(60),
            appears: Duration::from_secs(300),
        }
    }
}

/// An Auto Scaling group.
pub struct AwsProvisioner {
    config: AwsConfig,
    client: reqwest::Client,
    /// Keys that were lent, and until when they are used.
    lent: Mutex<Option<(Keys, Instant)>>,
    /// One opening at a time: a new instance is told by not having been there before.
    opening: Mutex<()>,
    /// One change of the capacity at a time: what is read before must still be so when it is set.
    changing: Mutex<()>,
}

impl std::fmt::Debug for AwsProvisioner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsProvisioner").field("config", &self.config).finish_non_exhaustive()
    }
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
        // The client ends the process without one. That there is one already is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(config.times.patience)
            .connect_timeout(config.times.patience.min(Duration::from_secs(5)))
            .build()
            .map_err(|error| failed(error.without_url().to_string()))?;
        Ok(Self {
            config,
            client,
            lent: Mutex::default(),
            opening: Mutex::default(),
            changing: Mutex::default(),
        })
    }

    /// The keys, and whether they were lent.
    async fn keys(&self) -> Result<(Keys, bool), Trouble> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        if let (Some(access), Some(secret)) =
            (variable("AWS_ACCESS_KEY_ID"), variable("AWS_SECRET_ACCESS_KEY"))
        {
            return Ok((Keys { access, secret, session: variable("AWS_SESSION_TOKEN") }, false));
        }
        let mut lent = self.lent.lock().await;
        if let Some((keys, until)) = &*lent
            && Instant::now() < *until
        {
            return Ok((keys.clone(), true));
        }
        let keys = self.lent_keys().await?;
        *lent = Some((keys.clone(), Instant::now() + LENT));
        Ok((keys, true))
    }

    /// The keys of the instance's role.
    async fn lent_keys(&self) -> Result<Keys, Trouble> {
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
        Ok(Keys {
            access: field("AccessKeyId")?,
            secret: field("SecretAccessKey")?,
            session: Some(field("Token")?),
        })
    }

    /// One call, tried again while the other side asks for patience.
    async fn call(
        &self,
        service: &str,
        version: &str,
        fields: &[(&str, &str)],
    ) -> Result<Vec<u8>, ProvisionError> {
        let mut pause = self.config.times.pause;
        let mut last = String::new();
        for _ in 0..TRIES {
            match self.try_call(service, version, fields).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Failed(told)) => return Err(failed(told)),
                Err(Trouble::Later(told)) => last = told,
            }
            wait(&mut pause).await;
        }
        Err(failed(last))
    }

    async fn try_call(
        &self,
        service: &str,
        version: &str,
        fields: &[(&str, &str)],
    ) -> Result<Vec<u8>, Trouble> {
        let (keys, lent) = self.keys().await?;
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
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => answer.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Err(Trouble::Later(error.without_url().to_string())),
            }
            if answer.len() > MAX_ANSWER {
                return Err(Trouble::Failed("the answer is too long".into()));
            }
        }
        if status.is_success() {
            let cut = || Trouble::Later("the answer was cut off".into());
            return if is_whole(&answer) { Ok(answer) } else { Err(cut()) };
        }
        let code = first(&answer, &["Code"]).unwrap_or_else(|| status.to_string());
        let message = first(&answer, &["Message"]).unwrap_or_default();
        let told =
            format!("{code}: {}", message.chars().filter(|c| !c.is_control()).take(300).collect::<String>());
        let patient =
            ["Throttling", "RequestLimitExceeded", "ScalingActivityInProgress", "ServiceUnavailable"];
        if status.is_server_error()
            || status.as_u16() == 429
            || patient.iter().any(|word| code.contains(word))
        {
            return Err(Trouble::Later(told));
        }
        if code.contains("ExpiredToken") || code.contains("InvalidClientTokenId") {
            if !lent {
                return Err(Trouble::Failed(format!(
                    "{told} (the keys of AWS_ACCESS_KEY_ID are not accepted)"
                )));
            }
            // Others may be lent by now.
            *self.lent.lock().await = None;
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
        Ok(read_address(&answer, self.config.private))
    }

    /// The group when nothing is on its way any more, or has been for long: another director, or this one before its
    /// restart, may have asked for an instance that is not there yet, and would be taken for ours.
    async fn settled(&self) -> Result<Group, ProvisionError> {
        let began = Instant::now();
        loop {
            let group = self.group().await?;
            let coming = group.desired > count(group.there().len());
            if !coming || began.elapsed() >= self.config.times.settles {
                return Ok(group);
            }
            tokio::time::sleep(self.config.times.look).await;
        }
    }

    async fn desire(&self, capacity: u64) -> Result<(), ProvisionError> {
        let wanted = capacity.to_string();
        let fields = [
            ("Action", "SetDesiredCapacity"),
            ("AutoScalingGroupName", self.config.group.as_str()),
            ("DesiredCapacity", wanted.as_str()),
            ("HonorCooldown", "false"),
        ];
        self.call("autoscaling", "2011-01-01", &fields).await.map(drop)
    }

    /// An instance that was not there before, once it has an address.
    async fn newcomer(&self, before: &Group) -> Result<Option<(String, IpAddr)>, ProvisionError> {
        let now = self.group().await?;
        for instance in now.there().difference(&before.there()) {
            if let Some(address) = self.address(instance).await? {
                return Ok(Some(((*instance).to_owned(), address)));
            }
        }
        Ok(None)
    }

    /// Takes back what was asked for: it would come when nobody waits for it any more, and cost.
    async fn take_back(&self, before: &Group) -> Result<(), ProvisionError> {
        let _change = self.changing.lock().await;
        let now = self.group().await?;
        let there = now.there();
        if let Some(instance) = there.difference(&before.there()).next() {
            return self.terminate(instance).await;
        }
        if now.desired > count(there.len()).max(now.minimum) {
            return self.desire(now.desired - 1).await;
        }
        Ok(())
    }

    async fn terminate(&self, instance: &str) -> Result<(), ProvisionError> {
        // Without lowering the capacity the group would start another one.
        let fields = [
            ("Action", "TerminateInstanceInAutoScalingGroup"),
            ("InstanceId", instance),
            ("ShouldDecrementDesiredCapacity", "true"),
        ];
        let (mut pause, mut last) = (self.config.times.pause, String::new());
        for _ in 0..TRIES {
            let trouble = match self.try_call("autoscaling", "2011-01-01", &fields).await {
                Ok(_) => return Ok(()),
                Err(trouble) => trouble,
            };
            // It was done, though the answer did not arrive; or it is gone by itself. Asked again it might lower
            // the capacity twice.
            if self.group().await?.is_gone(instance) {
                return Ok(());
            }
            match trouble {
                Trouble::Failed(told) => return Err(failed(told)),
                Trouble::Later(told) => last = told,
            }
            wait(&mut pause).await;
        }
        Err(failed(last))
    }
}

async fn wait(pause: &mut Duration) {
    let spread = u64::try_from(pause.as_millis() / 2).unwrap_or(u64::MAX);
    tokio::time::sleep(*pause + Duration::from_millis(rand::random_range(0..=spread))).await;
    *pause = pause.saturating_mul(2);
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn failed(told: String) -> ProvisionError {
    ProvisionError::Failed { program: "AWS".into(), told }
}

impl Provisioner for AwsProvisioner {
    fn open(&self, name: String, _: Vec<String>) -> Asked<'_, NodeSpec> {
        Box::pin(async move {
            let _one = self.opening.lock().await;
            let change = self.changing.lock().await;
            let before = self.settled().await?;
            let group = &self.config.group;
            if before.suspended.contains("Launch") {
                return Err(failed(format!(
                    "the process Launch of the group {group} is suspended; resume it"
                )));
            }
            for meddler in MEDDLERS.iter().filter(|meddler| !before.suspended.contains(**meddler)) {
                tracing::warn!(
                    group,
                    meddler,
                    "this process of the group is to be suspended: it opens or closes nodes too"
                );
            }
            // What was asked for and never came is asked for still: it is taken over, not asked for once more.
            if before.desired <= count(before.there().len()) {
                // Checked here: not every service that speaks this language does.
                if before.desired >= before.maximum {
                    return Err(failed(format!(
                        "the group {group} is at its maximum of {}; raise it, or lower the director's",
                        before.maximum
                    )));
                }
                self.desire(before.desired + 1).await?;
            }
            drop(change);
            let (began, mut last) = (Instant::now(), None);
            while began.elapsed() < self.config.times.appears {
                match self.newcomer(&before).await {
                    Ok(None) => {}
                    Ok(Some((instance, address))) => {
                        let host =
                            if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
                        let url = format!("https://{host}:{}", self.config.port);
                        return Ok(NodeSpec { name, url, addresses: vec![address], handle: instance });
                    }
                    // It is asked for already: what fails meanwhile may pass.
                    Err(error) => last = Some(error.to_string()),
                }
                tokio::time::sleep(self.config.times.look).await;
            }
            if let Err(error) = self.take_back(&before).await {
                return Err(failed(format!(
                    "no instance came, and the desired capacity of the group {group} could not be lowered again: {error}"
                )));
            }
            Err(last.map_or_else(|| ProvisionError::Slow(format!("the group {group}")), failed))
        })
    }

    fn close(&self, node: NodeSpec) -> Asked<'_, ()> {
        Box::pin(async move {
            // It lowers the capacity: a number that an opening has read before would raise it by two.
            let _change = self.changing.lock().await;
            self.terminate(&node.handle).await
        })
    }
}
