"""require_reachable(): a short look whether a server answers, before a client that would wait for it for minutes."""

import http.client
import urllib.error
import urllib.request

REACH_TIMEOUT_S = 10.0


def require_reachable(address: str) -> None:
    """Raises ConnectionError where nothing answers at an http address; of other addresses it knows nothing."""
    if not address.startswith(("http://", "https://")):
        return
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=REACH_TIMEOUT_S):
            return
    except urllib.error.HTTPError:
        return  # something answers; whether it is what is looked for, the first real call will say
    except (OSError, http.client.HTTPException) as error:
        raise ConnectionError(str(error)) from error
