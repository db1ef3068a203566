"""Files that hold secrets by their names: every tool keeps its own in a place that it tells of.

A pattern is a shell pattern of a file's name, or of the end of its path where it has a `/` in it; one that
ends with `/` is a folder, in which everything counts.
"""

# ruff: noqa: E501, SIM905 (tables)

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import translate
from functools import cache

import msgspec

_KINDS: dict[str, str] = {
    "environment variables": """
        .env .env.* .env-* .env_* *.env .envrc .envs/ .dev.vars .dev.vars.* .flaskenv.local .renviron
        .renviron.*
        env.local *.env.local
    """,
    "passwords for hosts": """
        .netrc _netrc .authinfo .authinfo.* .git-credentials .gitcookies .config/git/credentials .ftpconfig
        sftp-config.json .remote-sync.json .vscode/sftp.json filezilla.xml sitemanager.xml recentservers.xml
        winscp.ini .esmtprc .msmtprc .fetchmailrc .mbsyncrc .offlineimaprc .smbcredentials .smbcred
        .cifs-credentials .wgetrc .curlrc
        netrc git-credentials .s3ql/ .irods/ .dodsrc .earthdata .urs_cookies .remmina/ .x11vncrc
        .vnc/passwd .xauthority .httpie/ httpie/sessions/ .wandb/netrc .gitconfig.local
    """,
    "passwords of databases": """
        .pgpass pgpass.conf .pg_service.conf .my.cnf .mylogin.cnf .mongorc.js .odbc.ini .snowsql/config
        .snowsql/ .snowflake/ snowflake/config.toml connections.toml .dbt/profiles.yml
        datasources.local.xml robomongo.json .cassandra/credentials .redisclirc
        .mongoshrc.js .influxdbv2/ .elasticsearch/ dbt/profiles.yml .trino/ .clickhouse-client/ label_studio.sqlite3
    """,
    "a package registry's login": """
        .npmrc .yarnrc.yml .pypirc .gem/credentials .cargo/credentials .cargo/credentials.toml
        cargo/credentials.toml .nuget/nuget.config .m2/settings.xml settings-security.xml .sbt/.credentials
        .ivy2/.credentials .composer/auth.json .hex/hex.config .pub-cache/credentials.json pub-credentials.json
        .bundle/config poetry/auth.toml pypoetry/auth.toml .jfrog/ .pip/pip.conf
        .pypoetry/ .config/pip/pip.conf .anaconda/keyring .continuum/ .config/uv/ .uv/credentials.toml .pdm/ .twinerc
    """,
    "a container registry's login": """
        .dockercfg .docker/config.json .dockerconfigjson dockerconfig.json dockerconfigjson containers/auth.json
        pull-secret* .docker/*.json
    """,
    "a Kubernetes login": "kubeconfig kubeconfig.* *.kubeconfig *kubeconfig*.y*ml .kube/ kube.config k3s.yaml",
    "cloud credentials": """
        .aws/ .boto .s3cfg .passwd-s3fs rclone.conf .rclone.conf .mc/config.json .gsutil/ .oci/ .azure/
        local.settings.json *.publishsettings azureauth.json *.azureauth gcloud/credentials.db gcloud/access_tokens.db
        gcloud/legacy_credentials/ .config/gcloud/
        application_default_credentials.json client_secret*.json *service-account*.json *service_account*.json
        *serviceaccount*.json gcp-key*.json gcp_key*.json rootkey.csv rootkey*.csv *accesskey*.csv
        *access_key*.csv aws_credentials* aws-credentials* awscredentials* .edgerc .linode-cli doctl/config.yaml
        .bluemix/ .softlayer .hcloud/ hcloud/cli.toml .scw/config.yaml scw/config.yaml .ovh.conf ovh.conf
        .fly/config.yml .modal.toml .runpod/config.toml .lambda_cloud/ vast_api_key .vast_api_key
        .paperspace/config.json .lightning/credentials.json .cloudflared/ .netlify/config.json .config/hub
        gh/hosts.yml glab-cli/config.yml .ibm/ .aliyun/config.json .tccli/ .nebius/ .openstack/ clouds.yaml
        openrc.sh *-openrc.sh .bigqueryrc .cf/config.json .vercel/auth.json
        .azureml/ msal_token_cache* accesstokens.json azureprofile.json adc.json passwd-s3fs .passwd-s3fs* .s5cfg .s3fs .config/linode-cli
        .vultr-cli.yaml exoscale/exoscale.toml mc/config.json .minio/ .lakectl.yaml lakectl.yaml .sky/ .skypilot/ ray_bootstrap_key
        .ngrok2/ ngrok/ngrok.yml ngrok.yml .config/coder/ .aws-credentials .aws_credentials .config/aws/ .gcloud/ .vastai/ vastai/vast_api_key
    """,
    "a login of a machine-learning service": """
        .databrickscfg .databricks/token-cache.json kaggle.json huggingface/token huggingface/stored_tokens
        .huggingface/token hf_token hf_token.* .hf_token .mlflow/credentials .dvc/config.local .comet.config
        clearml.conf .wandb/settings wandb/settings.local .wandbrc .neptune/ .openai/ .anthropic/ .codex/auth.json
        .claude/.credentials.json .gemini/oauth_creds.json .cohere/ .replicate/ .streamlit/secrets.toml
        .roboflow/config.json roboflow/config.json .determined/auth.json jupyter_cookie_secret
        jupyter_server_config.json jupyter_notebook_config.json nbserver-*.json jpserver-*.json .polyaxon/
        .zenml/config.yaml prefect/profiles.toml .prefect/profiles.toml .labelbox/ .aim/credentials
        .clearml.conf trains.conf .runpod.toml modal.toml lambda_keys .together/ .aimrc .sagemaker/config .cdsapirc .ecmwfapirc
        .synapseconfig .ncbi/ .globusonline.json .globus/ .openml/config openml/config .zenodo.ini .figshare_token .osfcli.config .config/openai/
        github-copilot/hosts.json github-copilot/apps.json .det/auth.json .dataloop/ .cvat_token .supervisely/ .wandb_api_key .wandb_key wandb_key wandb_key.txt
        wandb_api_key hf_key hf_key.txt openai_key openai_key.txt .openai_key .openai_api_key .aider.conf.yml .kaggle/ .comet/ .neptune_token
    """,
    "Terraform state, variables or credentials": """
        *.tfstate *.tfstate.* *.tfvars *.tfvars.json .terraformrc terraform.rc .terraform.d/ *.tfrc.json *.tfrc
        .pulumi/credentials.json .serverlessrc *.tofuvars
    """,
    "a vault's key or password": """
        .vault-token .vault_token .vault_pass* .vault-pass* .vaultpass* vault_pass* vault-pass* vaultpass*
        vault.pass vault.key *vault_password* *vault-password* *vault_pass.* .ansible_vault* *.vault_pass
        *.vaultpass .consul-token .nomad-token secret_id secret-id .secret_id master.key credentials.yml.enc credentials/*.yml.enc
        .okta/okta.yaml .chef/ encrypted_data_bag_secret .sops/ sops/age/keys.txt *.agekey age-key* age.key
        age-keys.txt .password-store/ .op/ op/config
    """,
    "a private key": """
        *.pem *.key *.p8 *.p12 *.pfx *.pkcs12 *.jks *.jceks *.bks *.keystore *.ppk *.keytab krb5cc_* *.snk
        id_rsa* id_dsa* id_ecdsa* id_ed25519* id_xmss* id_*_sk .ssh/ ssh_host_*_key *_rsa *_dsa *_ecdsa
        *_ed25519 *.rsa *.ed25519 deploy_key deploy-key deploykey private_key private-key privatekey
        private_key.* private-key.* privatekey.* *.private *.priv secring.* .gnupg/ private-keys-v1.d/ *.gpgkey *.pgpkey
        private.asc secret.asc *.wgkey
        .config/atuin/key
    """,
    "a VPN's settings with its keys": "*.ovpn *.tblk wg?.conf wg??.conf wireguard/*.conf *.pcf *.mobileconfig",
    "a password safe": """
        *.kdbx *.kdb *.psafe3 *.1pux *.agilekeychain *.opvault *.keychain *.keychain-db *.walletx wallet.dat
        login.keychain .local/share/keyrings/ keyrings/*.keyring *.keyring bitwarden*export*.json lastpass*.csv
        1password*.csv *.enpassdb
    """,
    "a browser's cookies or logins": """
        cookies.txt *_cookies.txt *-cookies.txt cookies.sqlite cookies.sqlite-* cookies logins.json key3.db
        key4.db signons.sqlite .cookies .cookie cookies.json *.cookies cookies.pkl *_cookies.json
    """,
    "what was typed in a shell": """
        .*_history .*-history .*history *_history.sql .histfile .zhistory .lesshst .dbshell .viminfo fish_history
        history.sqlite zsh_history bash_history .node_repl_history consolehost_history.txt
    """,
    "hashed passwords": ".htpasswd .htdigest htpasswd etc/shadow .erlang.cookie",
    "credentials": """
        credentials .credentials credentials.* .credentials.* *.credentials *-credentials.* *_credentials.*
        credentials-*.* credentials_*.* creds .creds creds.* *.creds *-creds.* *_creds.* creds-*.* creds_*.*
        token .token *.token token.json token.txt token.pickle token.pkl *_token.txt *-token.txt access_token
        access_token.* access_token*.json refresh_token refresh_token.* .api_key api_key api_key.* api-key.*
        apikey apikey.* api_keys.* api-keys.* apikeys.* *_api_key.txt *_apikey.txt *.apikey
        password passwords password.* passwords.* *_password.txt *-password.txt *_passwords.* passwd.* passwd
        passphrase passphrase.* .passphrase .password .passwd .pass auth_token auth_token.* access_key.*
        access_keys.* secret_key secret_key.* secret-key.* .secret_key oauth.json oauth_token* oauth-token*
        gmail_token.* authorized_user.json
        mycreds.* *_token *-token .*_token .*-token .*_api_key
    """,
    "secrets": """
        secrets secret .secrets .secret secrets.* secret.* .secrets.* .secret.* *.secrets *.secret *-secrets.*
        *_secrets.* *.secrets.* *-secret.* *_secret.* *.secret.* secrets-*.* secrets_*.* secret-*.* secrets/
        .secrets/ docker-secrets/
    """,
}
_ONLY_SETTINGS = frozenset({"credentials", "secrets"})
"""Kinds that common words name: they count for settings, never for source code and documents."""

_SETTINGS_ENDINGS = frozenset(
    "json yaml yml toml ini cfg conf txt csv xml properties sh env enc pickle pkl local prod production dev".split()
) | {""}
"""Endings of settings, as against those of source code: `secrets.py` may well be a module."""

_KINDS_OWN_ENDINGS = (
    ".token",
    ".apikey",
    ".secret",
    ".secrets",
    ".creds",
    ".credentials",
    ".pass",
    ".password",
)

_HARMLESS = re.compile(
    r"(?:^|[._-])(?:example|examples|sample|samples|template|templates|tmpl|tpl|dist|dummy|skeleton|j2|jinja|jinja2)(?:[._-]|$)"
)
_PUBLIC = re.compile(
    r".*\.pub|.*\.schema\.json|\.secrets\.baseline|.*_pub\.(?:pem|key)|.*public.*\.(?:pem|key)"
)
_DOCUMENTS = ("md", "rst", "bicep", "tf")

_FINE_PATHS = re.compile(r"(?:^|/)\.azure/.*\.ya?ml$")
"""What a pipeline's definition is kept as, beside the logins of a tool of the same name."""

_BACKUP = re.compile(r"(?:\.(?:bak|backup|old|orig|save|swp|swo)|~)+\Z")
"""What editors and people put behind the name of another copy."""

_MAY_BE_PUBLIC = re.compile(r".*\.(?:pem|key|crt|cer|asc)")


class _Patterns(msgspec.Struct, frozen=True):
    """What all kinds are known by, sorted by what is quick to look up; each leads to its kind."""

    names: dict[str, str]
    endings: dict[str, str]
    tails: dict[str, str]
    folders: dict[str, str]
    globs: tuple[tuple[str, re.Pattern[str]], ...]


@cache
def _patterns() -> _Patterns:
    found = _Patterns({}, {}, {}, {}, ())
    globs: dict[str, list[str]] = {}
    for kind, patterns in _KINDS.items():
        for pattern in patterns.split():
            plain = not set(pattern.removeprefix("*")) & set("*?[")
            if pattern.endswith("/"):
                found.folders.setdefault(f"/{pattern}", kind)
            elif pattern.startswith("*.") and plain:
                found.endings.setdefault(pattern[1:], kind)
            elif plain and "*" not in pattern:
                (found.tails if "/" in pattern else found.names).setdefault(pattern, kind)
            else:  # `*` stays within one part of the path
                inner = translate(pattern).removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")
                globs.setdefault(kind, []).append(f"/{inner}")
    globs["a private key"].append(r"/id_[^/.]*")  # and nothing more: a name without an ending
    compiled = tuple((kind, re.compile(f"(?s:{'|'.join(some)})\\Z")) for kind, some in globs.items())
    return msgspec.structs.replace(found, globs=compiled)


def by_name(path: str) -> str | None:
    """What a file holds by its name, None where the name tells nothing.

    Give the path from where a tool chose it: `config` says nothing, `.oci/config` all.
    """
    lower = _BACKUP.sub("", path.lower())
    name = lower.rpartition("/")[2]
    ending = name.rpartition(".")[2] if "." in name[1:] else ""
    if _PUBLIC.fullmatch(name) or _HARMLESS.search(name) or ending in _DOCUMENTS or _FINE_PATHS.search(lower):
        return None
    for kind in _kinds(f"/{lower.lstrip('/')}", name):
        if kind not in _ONLY_SETTINGS or ending in _SETTINGS_ENDINGS or name.endswith(_KINDS_OWN_ENDINGS):
            return kind
    return None


def _kinds(lower: str, name: str) -> Iterator[str]:
    """Every kind that a path in small letters may be of."""
    known = _patterns()
    if name in known.names:
        yield known.names[name]
    for place in (place for place, letter in enumerate(name) if letter == "."):
        if name[place:] in known.endings:
            yield known.endings[name[place:]]
    if lower.count("/") > 1:
        yield from (kind for tail, kind in known.tails.items() if lower.endswith(f"/{tail}"))
        yield from (kind for folder, kind in known.folders.items() if folder in lower)
    yield from (kind for kind, pattern in known.globs if pattern.search(lower))


def by_place(path: str) -> str | None:
    """What a file holds by where it lies: of its absolute path counts what a tool chose, not a person."""
    parts = path.split("/")
    chosen = next((number for number, part in enumerate(parts) if part.startswith(".")), -1)
    return by_name("/".join(parts[chosen:]))


def may_be_public(path: str) -> bool:
    """Whether files of this name hold certificates and public keys as well as private ones."""
    return _MAY_BE_PUBLIC.fullmatch(path.lower().rpartition("/")[2]) is not None
