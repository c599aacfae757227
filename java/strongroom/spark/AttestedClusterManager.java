package strongroom.spark;

import org.apache.spark.SparkContext;
import org.apache.spark.scheduler.ExternalClusterManager;
import org.apache.spark.scheduler.SchedulerBackend;
import org.apache.spark.scheduler.TaskScheduler;
import org.apache.spark.scheduler.TaskSchedulerImpl;

/**
 * Schedules on executors that attested worker processes start, for the master named {@code strongroom}.
 *
 * <p>There is no resource manager: an executor joins by connecting to the driver, and Spark's authenticated RPC lets it
 * in only if it knows the cluster secret, which only an attested worker receives. This class never starts a process.
 */
public final class AttestedClusterManager implements ExternalClusterManager {
  private static final String MASTER = "strongroom";

  @Override
  public boolean canCreate(String master) {
    return MASTER.equals(master);
  }

  @Override
  public TaskScheduler createTaskScheduler(SparkContext context, String master) {
    return new TaskSchedulerImpl(context);
  }

  @Override
  public SchedulerBackend createSchedulerBackend(
      SparkContext context, String master, TaskScheduler scheduler) {
    return new AttestedSchedulerBackend(context, (TaskSchedulerImpl) scheduler);
  }

  @Override
  public void initialize(TaskScheduler scheduler, SchedulerBackend backend) {
    ((TaskSchedulerImpl) scheduler).initialize(backend);
  }
}
