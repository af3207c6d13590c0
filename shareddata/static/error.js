// A page that could not be shown: it is loaded again when the records are described anew.
import { listen } from "./live.js";

listen(() => "/events/records", { message() {} });
