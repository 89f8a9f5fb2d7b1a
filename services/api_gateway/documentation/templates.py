"""What the OpenAPI document says of templates."""

from services.api_gateway import examples
from services.api_gateway.documentation.parts import NAME, PAGE, call, parameter
from services.api_gateway.scopes import Scope
from services.api_gateway.template_bodies import TemplateBody

_VERSION = {"type": "integer", "minimum": 1, "maximum": 2**31 - 1}
_TEMPLATE_ID = parameter("templateId", "path", NAME, "Chosen by the admin")

PUT_TEMPLATE = call(
    "Make a template, or its next version",
    "For admins. A message that names the template by `templateId` goes to its persona, its webhook is called as "
    "`callPolicy` says, and `metadata` and `tags` stand beside its own. A version never changes: each PUT adds one, "
    "unless it says what the latest says already. What was sent before keeps what it was sent with.",
    {200: ("The version that says this", "Template", examples.TEMPLATE)},
    parameters=(_TEMPLATE_ID,),
    problems=(404, 408, 413),
    body=(
        TemplateBody,
        {
            "personaId": "support",
            "callPolicy": {"timeoutSeconds": 30, "maxAttempts": 1},
            "metadata": {"channel": "web"},
            "tags": ["vip"],
        },
        True,
    ),
    scope=Scope.TEMPLATES_WRITE,
)
GET_TEMPLATE = call(
    "Get a template",
    "For admins. Its latest version.",
    {200: ("The latest version", "Template", examples.TEMPLATE)},
    parameters=(_TEMPLATE_ID,),
    problems=(404,),
    scope=Scope.TEMPLATES_READ,
)
DELETE_TEMPLATE = call(
    "Delete a template",
    "For admins. Messages can name it no more; its versions can be read, and a PUT makes the next one.",
    {204: ("Deleted", None, None)},
    parameters=(_TEMPLATE_ID,),
    problems=(404,),
    scope=Scope.TEMPLATES_WRITE,
)
LIST_TEMPLATES = call(
    "List templates",
    "For admins, by id, each in its latest version.",
    {200: ("One page", "TemplateList", {"items": [examples.TEMPLATE], "nextCursor": None})},
    parameters=(PAGE[1], parameter("cursor", "query", NAME, "The nextCursor of the page before")),
    scope=Scope.TEMPLATES_READ,
)
LIST_TEMPLATE_VERSIONS = call(
    "List the versions of a template",
    "For admins, the newest first; of a deleted template too.",
    {200: ("One page", "TemplateList", {"items": [examples.TEMPLATE], "nextCursor": "3"})},
    parameters=(_TEMPLATE_ID, PAGE[1], parameter("cursor", "query", _VERSION, "The nextCursor of the page before")),
    problems=(404,),
    scope=Scope.TEMPLATES_READ,
)
GET_TEMPLATE_VERSION = call(
    "Get a version of a template",
    "For admins; of a deleted template too.",
    {200: ("The version", "Template", examples.TEMPLATE)},
    parameters=(_TEMPLATE_ID, parameter("version", "path", _VERSION, "As a session's templateVersion")),
    problems=(404,),
    scope=Scope.TEMPLATES_READ,
)
